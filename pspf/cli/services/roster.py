"""Workers as the command line sees them: read from the roster, asked, and waited for."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.errors import NotFound

_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a command is for: a worker, or one of its processes."""

    worker: str
    process: str | None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.process or self.worker


async def read_workers(broker: Broker) -> list[dict[str, Any]]:
    """Return the status of each worker, by id, with `age_ms`; one of another version may lack fields."""
    statuses = []
    for info in await broker.roster.list_workers():
        try:
            status = json.loads(info.status)
        except ValueError:
            continue
        if isinstance(status, dict):
            statuses.append({"processes": [], "answers": {}, **status, "worker": info.worker, "age_ms": info.age_ms})
    return statuses


def processes_of(workers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry for each process, as `workers list --json` prints it."""
    found = []
    for worker in workers:
        for process in worker["processes"]:
            rest = {key: value for key, value in process.items() if key not in ("worker", "pid", "state")}
            found.append(
                {
                    "worker": process.get("worker") or f"{worker['worker']}:{process['place']}",
                    "host": worker.get("host"),
                    "pid": process.get("pid"),
                    "state": process.get("state"),
                    "supervisor": worker["worker"],
                    "app": worker.get("app"),
                    **rest,
                }
            )
    return found


def find_targets(workers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Target]:
    """Return what `names` mean: ids of workers or of their processes, or hosts; all workers where there are none.

    Raises:
        NotFound: A name means nothing; the message has the nearest one.
    """
    if not names:
        return [Target(worker["worker"], None) for worker in workers]
    known: dict[str, list[Target]] = {}
    for worker in workers:
        known.setdefault(str(worker.get("host")), []).append(Target(worker["worker"], None))
        known[worker["worker"]] = [Target(worker["worker"], None)]
    for process in processes_of(workers):
        place = process["place"]
        known.setdefault(process["worker"], [Target(process["supervisor"], place)])
    targets: list[Target] = []
    for name in names:
        if name not in known:
            raise NotFound(f"no worker {name!r} is running{near(name, sorted(known))}\n  see: pspf workers list")
        targets += [target for target in known[name] if target not in targets]
    return targets


async def ask(
    broker: Broker, targets: Sequence[Target], do: str, *, timeout_ms: int
) -> dict[Target, dict[str, Any] | None]:
    """Send a command and return the answers; None from a worker that did not answer in time.

    A worker that is gone after a `stop` has answered.
    """
    pending: dict[str, Target] = {}
    answers: dict[Target, dict[str, Any] | None] = dict.fromkeys(targets)
    for target in targets:
        command_id = secrets.token_hex(8)
        command = {"id": command_id, "do": do, "process": target.process}
        try:
            await broker.roster.send(target.worker, json.dumps(command).encode())
        except NotFound:
            answers[target] = {"error": "it has ended"}
        else:
            pending[command_id] = target
    begun = time.monotonic()
    while pending and (time.monotonic() - begun) * 1000 < timeout_ms:
        workers = {worker["worker"]: worker for worker in await read_workers(broker)}
        for command_id, target in list(pending.items()):
            worker = workers.get(target.worker)
            answer = {"ok": "it has stopped"} if worker is None and do == "stop" else None
            answer = answer or (worker or {}).get("answers", {}).get(command_id)
            if answer is not None:
                answers[target] = {**answer, "answered_ms": round((time.monotonic() - begun) * 1000)}
                del pending[command_id]
        if pending:
            await asyncio.sleep(_LOOK_S)
    return answers

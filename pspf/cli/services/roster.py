"""Workers in the roster: read, addressed by name, and asked to act."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.roster import WorkerInfo
from pspf.errors import NotFound
from pspf.observability.worker_status import ProcessStatus, ShownWorker, WorkerStatus

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


async def read_workers(broker: Broker) -> list[ShownWorker]:
    """Return all workers, by id; one whose status can't be read says so as the reason why it is not ready."""
    return [_read_worker(info) for info in await broker.roster.list_workers()]


def describe_none(broker: Broker) -> str:
    """Return what to say where no worker is shown: those that run can't show themselves where nothing is stored."""
    if broker.find_obstacle() is None:
        return "no worker is running on this broker"
    return "no worker has shown itself lately, and none can now: nothing can be stored"


def _read_worker(info: WorkerInfo) -> ShownWorker:
    try:
        shown = ShownWorker.from_fields(json.loads(info.status))
    except ValueError as error:  # StatusUnreadable is one, too
        status = WorkerStatus(why=(f"another version wrote its status, which can't be read: {error}",))
        return ShownWorker(info.worker, status=status)
    return replace(shown, worker=info.worker)


def processes_of(workers: Iterable[ShownWorker]) -> list[tuple[str, ProcessStatus]]:
    """Return all processes of these workers, with their names."""
    return [(worker.name_of(process), process) for worker in workers for process in worker.processes]


def remarks_on(workers: Iterable[ShownWorker]) -> list[str]:
    """Return why processes do not do their work, and why a worker is shown without its processes."""
    remarks = []
    for worker in workers:
        remarks += [f"{worker.name_of(each)}: {each.why}" for each in worker.processes if each.why]
        remarks += [f"{worker.worker}: {reason}" for reason in worker.status.why if not worker.processes]
    return remarks


def find_targets(workers: Sequence[ShownWorker], names: Sequence[str]) -> list[Target]:
    """Return what `names` mean: ids of workers or of their processes, or hosts; all workers where there are none.

    Raises:
        NotFound: A name means nothing; the message has the nearest one.
    """
    if not names:
        return [Target(worker.worker, None) for worker in workers]
    known: dict[str, list[Target]] = {}
    for worker in workers:
        if worker.host is not None:
            known.setdefault(worker.host, []).append(Target(worker.worker, None))
        known[worker.worker] = [Target(worker.worker, None)]
    for worker in workers:
        for process in worker.processes:
            known.setdefault(worker.name_of(process), [Target(worker.worker, process.place)])
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
        workers = {worker.worker: worker for worker in await read_workers(broker)}
        for command_id, target in list(pending.items()):
            worker = workers.get(target.worker)
            if worker is None:
                answer: Mapping[str, Any] | None = {"ok": "it has stopped"} if do == "stop" else None
            else:
                answer = worker.answers.get(command_id)
            if answer is not None:
                answers[target] = {**answer, "answered_ms": round((time.monotonic() - begun) * 1000)}
                del pending[command_id]
        if pending:
            await asyncio.sleep(_LOOK_S)
    return answers

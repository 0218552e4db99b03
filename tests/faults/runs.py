"""One run of the app in real processes on a fresh broker file, and what must hold after it."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from pspf.connectors.base import Broker, Limits, StoredDeadLetter
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.records import NewRecord
from tests.faults.app import ALERT_EVERY
from tests.support.workers import read_all

ROOT: Final = Path(__file__).parents[2]
TOPIC: Final = "numbers"
SECONDS: Final = 60
"""How long one worker may take; a run takes about one."""


@dataclass(frozen=True, slots=True)
class Event:
    """A numbered event and its key."""

    n: int
    key: str

    def as_record(self) -> NewRecord:
        payload = {"event_id": f"e{self.n}", "event_type": "Number", "n": self.n, "key": self.key}
        return NewRecord(self.key.encode(), json.dumps(payload).encode())


def make_events(count: int, keys: int) -> list[Event]:
    """Return `count` events, dealt out to `keys` keys."""
    return [Event(n, f"key-{n * 7 % keys}") for n in range(count)]


class Run:
    """A broker file and the processes that work on it."""

    def __init__(self, folder: Path, *, partitions: int) -> None:
        self.path = folder / "broker.db"
        self.log = folder / "workers.log"
        self._partitions = partitions

    def open(self) -> Broker:
        """Return a broker on the file, to be entered."""
        return SQLiteBroker(self.path, Limits(synchronous="NORMAL"))

    async def fill(self, records: Sequence[NewRecord]) -> None:
        """Make the topic and append to it."""
        async with self.open() as broker:
            await broker.create_topic(TOPIC, partitions=self._partitions)
            for start in range(0, len(records), 50):
                await broker.append(TOPIC, records[start : start + 50])

    def start(self, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a worker that ends when all is done; `environment` arms faults."""
        command = [sys.executable, "-m", "pspf", "worker", "tests.faults.app:stream", "--burst", "--in-process"]
        more = {
            "PYTHONPATH": str(ROOT),
            "PSPF_BACKEND": f"sqlite:///{self.path}",
            "PSPF_LEASE_MS": "2000",
            "PSPF_RENEW_MS": "100",
            "PSPF_LOG_LEVEL": "WARNING",
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **more, **environment}, stdout=log, stderr=log
            )

    def finish(self) -> None:
        """Let an unharmed worker do what is left."""
        code = self.start().wait(SECONDS)
        assert code == 0, f"the unharmed worker ended with {code}\n{self.tail_of_log()}"

    def tail_of_log(self) -> str:
        """Return the end of what the workers said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4_000:]

    def check_file(self) -> None:
        """Check that the database file is whole."""
        connection = apsw.Connection(str(self.path))
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            connection.close()


async def check_exactly_once(
    broker: Broker, events: Iterable[Event], dead: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Check state, outputs, order, alerts, lag and dead letters against what one pass over `events` gives.

    `dead` names the events that must be dead letters, by handler, and nothing else may be.
    """
    dead = dead or {}
    all_events = list(events)
    expected = _reference([event for event in all_events if event.n not in dead.get("totals", ())])
    letters = await broker.list_dead_letters()
    assert _by_handler(letters) == {handler: sorted(numbers) for handler, numbers in dead.items() if numbers}
    assert [info.lag for info in await broker.list_cursors()] == [0] * len(await broker.list_cursors())
    state = {entry.key.decode(): tuple(json.loads(entry.value)) for entry in await broker.list_state(handler="totals")}
    assert state == {key: (steps[-1][1], steps[-1][2]) for key, steps in expected.items()}
    outputs: dict[str, list[tuple[int, int, int]]] = {}
    for record in await read_all(broker, "totals"):
        output = json.loads(record.value)
        outputs.setdefault(record.key or "", []).append((output["n"], output["count"], output["sum"]))
    assert outputs == expected
    alerts = Counter(json.loads(record.value)["n"] for record in await read_all(broker, "alerts"))
    assert alerts == Counter(
        event.n for event in all_events if event.n % ALERT_EVERY == 0 and event.n not in dead.get("alerts", ())
    )


def _reference(events: Iterable[Event]) -> dict[str, list[tuple[int, int, int]]]:
    """Return, per key, (n, count, sum) after each event, in order."""
    steps: dict[str, list[tuple[int, int, int]]] = {}
    for event in events:
        done = steps.setdefault(event.key, [])
        _, count, total = done[-1] if done else (0, 0, 0)
        done.append((event.n, count + 1, total + event.n))
    return steps


def _by_handler(letters: Iterable[StoredDeadLetter]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for letter in letters:
        found.setdefault(letter.handler, []).append(json.loads(letter.record.value)["n"])
    return {handler: sorted(numbers) for handler, numbers in found.items()}

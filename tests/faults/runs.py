"""One run of the app in real processes on a fresh broker, and what must hold after it."""

import json
import os
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.connectors.urls import make_broker
from pspf.records import NewRecord
from tests.faults.app import ALERT_EVERY
from tests.support import forks
from tests.support.forks import Fork
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.workers import read_all

ROOT: Final = Path(__file__).parents[2]
TOPIC: Final = "numbers"
SECONDS: Final = 60
"""How long one worker may take; a run takes about one."""
RUNS: Final = int(os.environ.get("PSPF_FAULT_RUNS", "2"))
"""How often what is random is done; `make faults` asks for more."""
KINDS: Final = ("sqlite", "valkey", "redis") if RUNS > 2 else ("sqlite", "valkey")
"""Redis takes part in the long runs only: it differs from Valkey in little, and conformance runs on both."""
SEED: Final = int(os.environ.get("PSPF_SEED", random.randrange(1 << 30)))


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


class Place(ABC):
    """Where a run's broker is."""

    url: str
    """What the workers get as PSPF_BACKEND."""

    @abstractmethod
    def open(self) -> Broker:
        """Return a broker there, to be entered."""

    @abstractmethod
    def check(self) -> None:
        """Check, when all is done, that what the broker keeps is whole."""


class FilePlace(Place):
    """A broker file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "broker.db"
        self.url = f"sqlite:///{self._path}"

    def open(self) -> Broker:
        return SQLiteBroker(self._path, Limits(synchronous="NORMAL"))

    def check(self) -> None:
        connection = apsw.Connection(str(self._path))
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            connection.close()


class ServerPlace(Place):
    """A logical database of a server; workers come to it through a proxy, where there is one."""

    def __init__(self, server: Server, *, database: int = 0, proxy: Proxy | None = None) -> None:
        self.server = server
        self.database = database
        self.url = server.url(database=database, port=None if proxy is None else proxy.port)

    def open(self) -> Broker:
        return make_broker(self.server.url(database=self.database))

    def check(self) -> None:
        with self.server.client(database=self.database, decode_responses=True) as client:
            for stream in client.scan_iter(_type="stream", count=1_000):
                for group in client.xinfo_groups(stream):
                    assert group["pending"] == 0, f"{stream} has entries pending in {group}"


class Run:
    """A broker and the processes that work on it."""

    def __init__(
        self,
        folder: Path,
        place: Place | None = None,
        *,
        partitions: int,
        lease_ms: int = 2_000,
        app: str = "tests.faults.app:stream",
    ) -> None:
        self._app = app
        self.place = place or FilePlace(folder)
        self.log = folder / "workers.log"
        self._partitions = partitions
        self._lease_ms = lease_ms

    def open(self) -> Broker:
        """Return a broker on the run's data, to be entered."""
        return self.place.open()

    async def fill(self, records: Sequence[NewRecord], *, at_once: int = 50) -> None:
        """Make the topic and append to it."""
        async with self.open() as broker:
            await broker.create_topic(TOPIC, partitions=self._partitions)
            for start in range(0, len(records), at_once):
                await broker.append(TOPIC, records[start : start + at_once])

    def start(self, *, burst: bool = True, **environment: str) -> Fork:
        """Start a worker that ends when all is done, or (`burst` False) at a signal; `environment` arms faults."""
        command = ["worker", self._app, "--in-process"]
        command += ["--burst"] if burst else []
        more = {
            "PYTHONPATH": str(ROOT),
            "PSPF_BACKEND": self.place.url,
            "PSPF_LEASE_MS": str(self._lease_ms),
            "PSPF_RENEW_MS": "100",
            "PSPF_LOG_LEVEL": "WARNING",
        }
        with self.log.open("ab") as log:
            return forks.start(*command, folder=ROOT, environment={**os.environ, **more, **environment}, output=log)

    def finish(self) -> None:
        """Let an unharmed worker do what is left."""
        code = self.start().wait(SECONDS)
        assert code == 0, f"the unharmed worker ended with {code}\n{self.tail_of_log()}"

    def tail_of_log(self) -> str:
        """Return the end of what the workers said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4_000:]

    def check(self) -> None:
        """Check that what the broker keeps is whole."""
        self.place.check()


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

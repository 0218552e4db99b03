"""Workers started, stopped, killed and held at random, operators beside them: the result is one undisturbed pass.

Workers of all kinds of handlers are on one topic while events come. `PSPF_CROWD_SECONDS=600` takes ten workers on
16 partitions for ten minutes on each kind of broker; `PSPF_SEED` repeats the choices.
"""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.errors import BackendUnavailable, EmitUnknown
from pspf.records import NewRecord
from tests.faults.crowd_app import TOPIC, WINDOW_MS, Poison, is_poison
from tests.faults.runs import ROOT, SEED, FilePlace, Place, ServerPlace
from tests.support import forks
from tests.support.forks import Fork
from tests.support.servers import AOF_EVERYSEC, Server
from tests.support.workers import read_all

SECONDS: Final = int(os.environ.get("PSPF_CROWD_SECONDS", "8"))
IS_LONG: Final = SECONDS > 60
WORKERS: Final = 10 if IS_LONG else 4
PARTITIONS: Final = 16 if IS_LONG else 4
LEASE_MS: Final = 3_000
KEYS: Final = 60
BATCH: Final = 20
PER_SECOND: Final = 150
STEP_MS: Final = 40
"""How far apart the times of events are."""
START_MS: Final = 1_700_000_000_000
UNREAD_S: Final = 2 * LEASE_MS / 1_000
HELD_S: Final = 3 * LEASE_MS / 1_000
START_S: Final = 3.0 if IS_LONG else 2.0
"""What a process may take to start on a machine that has less cores than there are workers."""
PEACE_S: Final = 120


class Crowd:
    """The workers, and what is done to them."""

    def __init__(self, folder: Path, place: Place, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.healed = folder / "healed"
        self.log = folder / "workers.log"
        self._place = place
        self._rng = rng
        self._folder = folder
        self.workers = [self._start() for _ in range(WORKERS)]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PSPF_BACKEND": self._place.url,
            "PSPF_LEASE_MS": str(LEASE_MS),
            "PSPF_RENEW_MS": "500",
            "PSPF_LOG_LEVEL": "INFO",
            "PSPF_ADMIN": "off",
            "CROWD_HEALED": str(self.healed),
        }

    def run(self, *command: str, within_s: float = PEACE_S) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it said."""
        result = forks.run(*command, folder=self._folder, environment=self.environment, timeout_s=within_s)
        return result.returncode, (result.stdout + result.stderr).decode()

    def _start(self) -> Fork:
        in_process = ["--in-process"] if self._rng.random() < 0.7 else []
        command = ["worker", "tests.faults.crowd_app:stream", *in_process]
        with self.log.open("ab") as log:
            return forks.start(*command, folder=ROOT, environment=self.environment, output=log)

    def act(self) -> None:
        """Do something to a worker, or as an operator."""
        deed = self._rng.choice([self.kill, self.kill, self.stop, self.hold, self.hold, self.replay, self.seek])
        self.done[deed.__name__] += 1
        deed()

    def _replace(self, worker: Fork) -> None:
        self.workers[self.workers.index(worker)] = self._start()

    def _pick(self) -> Fork:
        return self._rng.choice(self.workers)

    def kill(self) -> None:
        worker = self._pick()
        worker.kill()
        worker.wait()
        self._replace(worker)

    def stop(self) -> None:
        worker = self._pick()
        worker.send_signal(signal.SIGCONT)
        worker.terminate()
        worker.wait(60)
        self._replace(worker)

    def hold(self) -> None:
        """Stop a process for less than a lease or more."""
        worker = self._pick()
        worker.send_signal(signal.SIGSTOP)
        threading.Timer(self._rng.uniform(0.2, HELD_S), worker.send_signal, [signal.SIGCONT]).start()

    def replay(self) -> None:
        """Replay dead letters, which are dead again until they are healed."""
        code, said = self.run("dlq", "replay", TOPIC)
        assert code in (0, 4, 8), said  # 4: a held writer has the file

    def seek(self) -> None:
        """Move the group that may see records again."""
        partition = str(self._rng.randrange(PARTITIONS))
        command = ["groups", "seek", "again", "--to", "start", "-p", partition, "--force", "--execute"]
        code, said = self.run(*command)
        assert code in (0, 4, 6), said

    def end(self) -> None:
        """End all workers, as a deploy does."""
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        for worker in self.workers:
            assert worker.wait(60) in (0, -signal.SIGTERM), self.tail()  # the latter: it had only just started

    def kill_all(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def tail(self) -> str:
        """Return the end of what the workers said."""
        return self.log.read_text(errors="replace")[-4_000:]


async def emit_until(broker: Broker, end_s: float) -> int:
    """Emit numbered events until the time is up; return how many."""
    n = 0
    while time.monotonic() < end_s:
        records = [_record(number) for number in range(n, n + BATCH)]
        while True:
            try:
                await broker.append(TOPIC, records)
                break
            except (BackendUnavailable, EmitUnknown):
                await asyncio.sleep(0.1)
        n += BATCH
        await asyncio.sleep(BATCH / PER_SECOND)
    return n


def _key(n: int) -> str:
    return f"key-{n * 7 % KEYS}"


def _record(n: int) -> NewRecord:
    payload = {"event_id": f"e{n}", "event_type": "Number", "n": n, "key": _key(n), "timestamp": _time_ms(n) / 1_000}
    return NewRecord(_key(n).encode(), json.dumps(payload).encode(), event_id=f"e{n}")


def _time_ms(n: int) -> int:
    return START_MS + n * STEP_MS


async def watch(broker: Broker, unread: dict[str, float], end: asyncio.Event) -> None:
    """Note for how long, at most, each cursor had records to read and moved nothing."""
    since: dict[str, tuple[object, float]] = {}
    while not end.is_set():
        try:
            infos = await broker.list_cursors()
        except BackendUnavailable:
            infos = []
        now_s = time.monotonic()
        for info in infos:
            name, place = str(info.cursor), (info.committed, info.pending, info.unread)
            if not info.unread or since.get(name, (None, 0.0))[0] != place:
                since[name] = (place, now_s)
            unread[name] = max(unread[name], now_s - since[name][1])
        await asyncio.sleep(0.25)


async def read_numbers(broker: Broker, topic: str) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in await read_all(broker, topic)]


def check_all_once(found: list[int], count: int, name: str) -> None:
    """Check that each number is there once."""
    times = Counter(found)
    missing = [n for n in range(count) if not times[n]]
    twice = [n for n, count in times.items() if count > 1]
    assert not missing, f"{name}: missing {len(missing)}: {missing[:10]}"
    assert not twice, f"{name}: more than once {len(twice)}: {twice[:10]}"


@pytest.mark.parametrize("name", ["sqlite", "valkey", "redis"] if IS_LONG else ["sqlite", "valkey"])
async def test_a_crowd_of_workers_handles_everything_exactly_once(
    own_server: Callable[..., Server], tmp_path: Path, name: str
) -> None:
    print(f"PSPF_SEED={SEED}")
    place = FilePlace(tmp_path) if name == "sqlite" else ServerPlace(own_server(name, options=AOF_EVERYSEC))
    async with place.open() as broker:
        await broker.create_topic(TOPIC, partitions=PARTITIONS)
        crowd = Crowd(tmp_path, place, random.Random(SEED))
        unread: dict[str, float] = defaultdict(float)
        peace = asyncio.Event()
        watching = asyncio.create_task(watch(broker, unread, peace))
        try:
            emitting = asyncio.create_task(emit_until(broker, time.monotonic() + SECONDS))
            rng = random.Random(SEED + 1)
            while not emitting.done():
                await asyncio.sleep(rng.uniform(0.2, 1.5))
                await asyncio.to_thread(crowd.act)
            count = await emitting
            peace.set()
            await watching
            print(dict(crowd.done), count, "events; longest unread", sorted(unread.values())[-3:])
            await asyncio.to_thread(crowd.end)
            letters = await broker.list_dead_letters()
            assert {letter.error_type for letter in letters} <= {Poison.__name__}, [
                (letter.handler, letter.error_type, letter.error) for letter in letters if letter.error_type != "Poison"
            ]
            crowd.healed.touch()
            await finish(crowd)
        except BaseException:
            print(crowd.tail())
            raise
        finally:
            peace.set()
            crowd.kill_all()
        await check(broker, count)
    place.check()
    limit_s = UNREAD_S + START_S
    if name == "sqlite":
        limit_s += HELD_S  # a process that is stopped inside a transaction stops all that write to its file
    slow = {cursor: round(seconds, 1) for cursor, seconds in unread.items() if seconds > limit_s}
    assert not slow, f"partitions that nobody read for longer than two leases: {slow}"


async def finish(crowd: Crowd) -> None:
    """Do what is left, the dead letters too, and close the windows."""
    for command in (
        ["worker", "tests.faults.crowd_app:stream", "--in-process", "--burst", "--burst-timeout", "100s"],
        ["dlq", "replay", TOPIC],
        ["worker", "tests.faults.crowd_app:stream", "--in-process", "--burst", "--final", "--burst-timeout", "100s"],
    ):
        code, said = await asyncio.to_thread(crowd.run, *command)
        assert code == 0, said


async def check(broker: Broker, count: int) -> None:
    """Check what the handlers have come to against one pass over the events."""
    assert not await broker.list_dead_letters()
    assert {info.lag for info in await broker.list_cursors()} == {0}
    for topic in ("copied", "counted", "bulked"):
        check_all_once([event["n"] for event in await read_numbers(broker, topic)], count, topic)
    assert {event["n"] for event in await read_numbers(broker, "seen-again")} >= set(range(count)), "seen: missing"
    _check_order(await read_numbers(broker, "counted"))
    windows: dict[tuple[str, int], list[int]] = defaultdict(list)
    for n in range(count):
        windows[_key(n), _time_ms(n) // WINDOW_MS * WINDOW_MS].append(n)
    results = [((e["key"], e["window_start_ms"]), e["value"]) for e in await read_numbers(broker, "summed")]
    assert len(results) == len(windows), "a window has more or less than one result"
    assert {key: sorted(ns) for key, ns in results} == windows
    topics = {info.topic for info in await broker.list_topics()}
    assert f"{TOPIC}-late" not in topics or not await read_all(broker, f"{TOPIC}-late")


def _check_order(counted: list[dict[str, Any]]) -> None:
    """Check the totals of each key: one after the other, and in the order of its records but for the replayed ones."""
    of_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in counted:
        of_key[_key(event["n"])].append(event)
    for key, events in of_key.items():
        events.sort(key=lambda event: int(event["total"]))
        assert [event["total"] for event in events] == list(range(1, len(events) + 1)), key
        in_order = [event["n"] for event in events if not is_poison(event["n"])]
        assert in_order == sorted(in_order), f"{key}: out of order"

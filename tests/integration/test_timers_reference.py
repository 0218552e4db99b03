"""Timers against a plain reference: random ones, set, replaced, cancelled, whatever batches, crashes and failures."""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from pspf import Context, RetryPolicy, Stream, Timer
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.records import partition_of
from pspf.testing import StreamTester
from tests.integration.running import TOPIC, drain, read_events, running, wait_until
from tests.support.brokers import Kind

SEED: Final = int(os.environ.get("PSPF_SEED", random.randrange(1 << 30)))
RUNS: Final = 6
EVENTS: Final = 400 if "PSPF_FAULT_RUNS" in os.environ else 150
NAMES: Final = "tuvw"
Log = dict[str, list[Any]]


@dataclass(slots=True)
class Reference:
    """What timers of one partition come to, one thing after the other: `(due_ms, key, name) -> payload`."""

    event: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    clock: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    watermark_ms: int = -(10**15)
    log: Log = field(default_factory=lambda: defaultdict(list))

    def handle(self, event: dict[str, Any], now_ms: int) -> None:
        self.watermark_ms = max(self.watermark_ms, event["timestamp"] * 1_000)
        self.fire()
        key = event["key"]
        self.log[key].append(event["n"])
        for name in event["cancel"]:
            self._forget(key, name)
        for name, at_ms in event["at"].items():
            self._forget(key, name)
            self.event[key, name] = at_ms, event["n"]
        for name, after_ms in event["after"].items():
            self._forget(key, name)
            self.clock[key, name] = now_ms + after_ms, event["n"]
        self.fire()

    def _forget(self, key: str, name: str) -> None:
        self.event.pop((key, name), None)
        self.clock.pop((key, name), None)

    def fire(self) -> None:
        while due := sorted((at, *place) for place, (at, _) in self.event.items() if at <= self.watermark_ms):
            at_ms, key, name = due[0]
            _, n = self.event.pop((key, name))
            self.log[key].append([name, n, at_ms])
            if n % 5 == 0 and name == "t":
                self._forget(key, "u")
                self.event[key, "u"] = at_ms + 700, n + 1

    def advance(self, now_ms: int) -> None:
        for at_ms, key, name in sorted((at, *place) for place, (at, _) in self.clock.items() if at <= now_ms):
            _, n = self.clock.pop((key, name))
            self.log[key].append([name, n, at_ms])


def make_events(rng: random.Random, count: int, keys: int, *, by_clock: bool) -> list[dict[str, Any]]:
    """Return events out of order by some seconds, which set, replace and cancel timers of their keys."""
    events = []
    for n in range(count):
        at_s = n // 3 + rng.randint(-4, 4) + 10
        names = rng.sample(NAMES, rng.randint(0, 3))
        events.append(
            {
                "n": n,
                "key": f"k{rng.randrange(keys)}",
                "timestamp": at_s,
                "cancel": rng.sample(NAMES, rng.choice([0, 0, 1, 2])),
                "at": {
                    name: at_s * 1_000 + rng.randint(-3_000, 12_000) for name in names if name < "v" or not by_clock
                },
                "after": {name: rng.randint(1, 9_000) for name in names if by_clock and name >= "v"},
            }
        )
    return events


def subscribe(stream: Stream, batch_size: int | None, *, plain: bool, concurrency: int = 1, fails: float = 0) -> None:
    """Register the app. With `fails`, so many of the calls fail at first."""
    rng = random.Random(7)
    retry = RetryPolicy(12, 1, 5)

    def change(event: dict[str, Any], ctx: Context) -> None:
        for name in event["cancel"]:
            ctx.cancel_timer(name)
        for name, at_ms in event["at"].items():
            ctx.timer(name, at_ms=at_ms, payload=event["n"])
        for name, after_ms in event["after"].items():
            ctx.timer(name, after_ms=after_ms, payload=event["n"])
        ctx.emit({"log": event["n"]}, topic="out", key=ctx.key)
        if rng.random() < fails:
            raise ValueError("as it may")

    async def handle(event: dict[str, Any], ctx: Context) -> None:
        await asyncio.sleep(0)
        change(event, ctx)

    def handle_in_thread(event: dict[str, Any], ctx: Context) -> None:
        change(event, ctx)

    function: Any = handle_in_thread if plain else handle
    stream.subscribe(TOPIC, batch_size, ordering="key", name="app", schema=dict, concurrency=concurrency, retry=retry)(
        function
    )

    @stream.on_timer(function)
    async def fire(timer: Timer[int], ctx: Context) -> None:
        fired = await ctx.state.get("fired", 0)
        await ctx.state.put("fired", fired + 1)
        ctx.emit({"log": [timer.name, timer.payload, timer.at_ms]}, topic="out", key=timer.key)
        if timer.payload % 5 == 0 and timer.name == "t" and timer.is_event_time:
            ctx.timer("u", at_ms=timer.at_ms + 700, payload=timer.payload + 1)
        if rng.random() < fails:
            raise ValueError("as it may")


def as_log(events: Sequence[dict[str, Any]]) -> Log:
    """Return what went out, by key."""
    log: Log = defaultdict(list)
    for event in events:
        log[event["key"]].append(event["log"])
    return log


async def outputs(tester: StreamTester) -> Log:
    return as_log([{"key": each.key, "log": event["log"]} for each, event in await _both(tester)])


async def _both(tester: StreamTester) -> list[tuple[Any, Any]]:
    return list(zip(await tester.records("out"), await tester.outputs("out"), strict=True))


@pytest.mark.parametrize("number", range(RUNS))
async def test_timers_fire_as_in_a_plain_reference_whatever_the_batches_and_crashes(
    number: int, tmp_path: Path
) -> None:
    seed = SEED + number
    print(f"PSPF_SEED={seed}")
    rng = random.Random(seed)
    events = make_events(rng, 120, 5, by_clock=True)
    stream, reference = Stream(topic=TOPIC, group="g"), Reference()
    subscribe(stream, rng.choice([1, 3, None]), plain=rng.random() < 0.3)
    url = rng.choice([None, f"sqlite:///{tmp_path / 'broker.db'}?synchronous=NORMAL"])
    async with StreamTester(stream, url, raises=False) as tester:
        sent = 0
        while sent < len(events):
            some = events[sent : sent + rng.randint(1, 25)]
            await tester.send_many(TOPIC, some)
            for event in some:
                reference.handle(event, tester.now_ms)
            sent += len(some)
            if rng.random() < 0.15:
                before_ms = tester.now_ms
                await tester.crash()
                for now_ms in range(before_ms, tester.now_ms + 1_000, 1_000):
                    reference.advance(min(now_ms, tester.now_ms))
            else:
                await tester.advance(rng.choice([0, 10, 3_000]))
                reference.advance(tester.now_ms)
        await tester.advance(20_000)
        reference.advance(tester.now_ms)
        assert await outputs(tester) == reference.log
        for key, log in reference.log.items():
            fired = sum(1 for each in log if isinstance(each, list))
            assert (await tester.state("app", key, "fired") or 0) == fired


@pytest.mark.parametrize("batch_size", [1, 7, None])
async def test_in_event_time_they_fire_so_on_every_broker_though_workers_die_and_partitions_move(
    kind: Kind, tmp_path: Path, batch_size: int | None
) -> None:
    print(f"PSPF_SEED={SEED}")
    rng = random.Random(f"{SEED} {batch_size}")
    events = make_events(rng, EVENTS, 9, by_clock=False)
    partitions = 3
    references = [Reference() for _ in range(partitions)]
    for event in events:
        references[partition_of(event["key"].encode(), partitions)].handle(event, 0)
    expected: Log = {key: log for reference in references for key, log in reference.log.items()}
    count = sum(map(len, expected.values()))
    broker = kind.make(tmp_path, Limits(synchronous="NORMAL", lease_ms=1_000, renew_ms=100), None)
    backend = StreamingBackend(broker, TOPIC, "g")
    await broker.connect()
    await broker.create_topic(TOPIC, partitions=partitions)

    def make(worker: int) -> Stream:
        stream = Stream(backend, name=f"worker-{worker}")
        subscribe(stream, batch_size, plain=worker == 1, concurrency=1 + worker)
        return stream

    emitter = Stream(backend)
    first = make(0)
    task = asyncio.create_task(first.run_forever())
    await emitter.emit_many(events[: EVENTS // 2])

    async def some_out() -> bool:
        return len(await read_events(broker, "out")) > count // 8

    await wait_until(some_out, within_ms=30_000)
    first.abandon()
    await task

    async def all_out() -> bool:
        return len(await read_events(broker, "out")) >= count

    second, third = make(1), make(2)
    async with running(second), running(third):
        await emitter.emit_many(events[EVENTS // 2 :])
        await wait_until(all_out, within_ms=60_000)
        await drain(second, third)
    log: Log = defaultdict(list)
    _, places = await broker.read_topic("out")
    for place in places:
        for record in await broker.read("out", place.partition, offset=0, max_records=100_000):
            log[record.key or ""].append(orjson.loads(record.value)["log"])
    assert log == expected
    await broker.close()


async def test_where_calls_fail_each_timer_still_fires_once(kind: Kind, tmp_path: Path) -> None:
    print(f"PSPF_SEED={SEED}")
    rng = random.Random(f"{SEED} fails")
    events = make_events(rng, 200, 6, by_clock=False)
    for event in events:  # names of their own: order does not matter then
        event["cancel"] = []
        event["at"] = {f"{name}{event['n']}": at_ms for name, at_ms in event["at"].items()}
    events.append({"n": 999, "key": "k0", "timestamp": 10_000, "cancel": [], "at": {}, "after": {}})
    reference = Reference()
    for event in events:
        reference.handle(event, 0)
    broker = kind.make(tmp_path, Limits(synchronous="NORMAL"), None)
    stream = Stream(StreamingBackend(broker, TOPIC, "g"))
    subscribe(stream, None, plain=False, concurrency=3, fails=0.3)
    count = sum(map(len, reference.log.values()))

    async def all_out() -> bool:
        return len(await read_events(broker, "out")) >= count

    await stream.emit_many(events)
    async with running(stream):
        await wait_until(all_out, within_ms=60_000)
        await drain(stream)
    logged = [each["log"] for each in await read_events(broker, "out")]
    everything = [each for log in reference.log.values() for each in log]
    assert sorted(map(str, logged)) == sorted(map(str, everything))
    await broker.close()

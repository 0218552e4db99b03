"""Windows whose grouping key is not their records' key, on topics of several partitions."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from pspf import BaseEvent, Count, RetryPolicy, SessionWindow, Stream, TumblingWindow
from pspf.clock import SystemClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.engine.cursor_scope import CursorHandlerScope
from pspf.engine.effect_budget import EffectLimits
from pspf.engine.idleness import IdleTracker
from pspf.engine.key_order import KeyOrder
from pspf.engine.operators.context import OperatorContext, OperatorScope
from pspf.engine.operators.shuffle import ShuffleSender
from pspf.errors import TopicMismatch
from pspf.events.decoding import make_decoder
from pspf.records import NewRecord
from tests.integration.running import read_events, read_letters, run_until_drained, running, wait_until
from tests.support.brokers import KINDS
from tests.support.workers import key_in, own

SOME = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.name in ("memory", "valkey")], ids=lambda kind: kind.name, indirect=True
)
TOPIC = "ticks"
GROUP = "sums"
THROUGH = f"{GROUP}.t.repartition"


def ticks(count: int, *, seed: int = 7) -> list[dict[str, Any]]:
    """Return events a tenth of a second apart, of 20 keys and 5 colours."""
    chosen = random.Random(seed)
    return [
        {"timestamp": n / 10, "key": f"k{chosen.randrange(20)}", "colour": f"c{chosen.randrange(5)}", "n": n}
        for n in range(count)
    ]


def expected(events: list[dict[str, Any]], size_s: int = 10) -> Counter[tuple[str, int]]:
    """Return how many events there are of each colour and window."""
    return Counter((event["colour"], int(event["timestamp"] // size_s * size_s)) for event in events)


async def results(stream: Stream, topic: str = "out") -> list[tuple[tuple[str | None, int], Any]]:
    events = await read_events(stream.broker, topic)
    return [((event["key"], event["window_start_ms"] // 1000), event["value"]) for event in events]


async def finish(stream: Stream, count: int) -> None:
    """Run until so many results are out, and nothing is left."""

    async def all_out() -> bool:
        stream.finish()  # again, for cursors that were not in hand yet
        return len(await results(stream)) >= count

    async def nothing_is_left() -> bool:
        infos = await stream.broker.list_cursors()
        return len({info.cursor.topic for info in infos}) == 2 and all(info.lag == 0 for info in infos)

    async with running(stream):
        await wait_until(nothing_is_left, within_ms=20_000)
        await wait_until(all_out, within_ms=20_000)


async def test_each_grouping_key_is_counted_once_whatever_the_partitions(backend: StreamingBackend) -> None:
    events = ticks(600)
    await backend.broker.connect()
    await backend.broker.create_topic(TOPIC, partitions=4)
    stream = Stream(backend)
    stream.window(TOPIC, TumblingWindow(10_000), key="colour", emit="final", to="out", name="t")(Count())
    await stream.emit_many(events, TOPIC)
    wanted = expected(events)
    await finish(stream, len(wanted))
    assert sorted(await results(stream)) == sorted(wanted.items())
    assert await read_events(stream.broker, f"{TOPIC}-late") == []
    assert await read_letters(stream.broker) == []


async def make(backend: StreamingBackend, partitions: int = 4, **options: Any) -> Stream:
    await backend.broker.connect()
    await backend.broker.create_topic(TOPIC, partitions=partitions)
    stream = Stream(backend)
    chosen: dict[str, Any] = {"key": "colour", "emit": "final", "to": "out", "name": "t"} | options
    handler = chosen.pop("handler", Count())
    stream.window(TOPIC, chosen.pop("window", TumblingWindow(10_000)), **chosen)(handler)
    return stream


async def test_partitions_that_are_empty_do_not_hold_windows_open(backend: StreamingBackend) -> None:
    stream = await make(backend)
    await stream.emit_many([{"timestamp": at, "key": "one", "colour": "red"} for at in (1, 5, 12)], TOPIC)

    async def is_out() -> bool:
        return await results(stream) == [(("red", 0), 2)]

    async with running(stream):
        await wait_until(is_out, within_ms=20_000)


@SOME
async def test_a_partition_that_is_read_later_is_not_late(backend: StreamingBackend) -> None:
    events = ticks(400)
    stream = await make(backend, handler=slow_for("k1"), batch_size=20)
    await stream.emit_many(events, TOPIC)
    wanted = expected(events)
    await finish(stream, len(wanted))
    assert sorted(await results(stream)) == sorted(wanted.items())
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


def slow_for(key: str) -> Any:
    async def count(event: BaseEvent, state: int | None) -> int:
        if event.key == key:
            await asyncio.sleep(0.002)
        return (state or 0) + 1

    return count


async def test_bursts_into_an_app_that_has_nothing_to_do_are_not_late(backend: StreamingBackend) -> None:
    events = ticks(900)
    stream = await make(backend)

    async def nothing_is_left() -> bool:
        infos = await stream.broker.list_cursors()
        return len(infos) == 8 and all(info.lag == 0 for info in infos)

    async with running(stream):
        for begin in range(0, 900, 150):
            await stream.emit_many(events[begin : begin + 150], TOPIC)
            await wait_until(nothing_is_left, within_ms=20_000)
            await asyncio.sleep(0.05 * (begin % 4))
        await wait_until(nothing_is_left, within_ms=20_000)
    assert await read_events(stream.broker, f"{TOPIC}-late") == []
    await finish(stream, len(expected(events)))
    assert sorted(await results(stream)) == sorted(expected(events).items())


@SOME
async def test_runs_that_end_half_way_count_each_record_once(backend: StreamingBackend) -> None:
    events = ticks(300)
    fails = iter(range(10_000))

    async def flaky(event: BaseEvent, state: int | None) -> int:
        if next(fails) % 37 == 5:
            raise RuntimeError("not now")
        return (state or 0) + 1

    policy = RetryPolicy(max_attempts=100, initial_ms=1, max_ms=2)
    for begin in range(0, 300, 100):
        stream = await make(backend, handler=flaky, retry=policy, batch_size=7)
        await stream.emit_many(events[begin : begin + 100], TOPIC)
        await run_until_drained(stream)  # the hop is through, the windows may be anywhere
    stream = await make(backend, handler=flaky, retry=policy)
    wanted = expected(events)
    await finish(stream, len(wanted))
    assert sorted(await results(stream)) == sorted(wanted.items())
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


@SOME
async def test_handlers_see_the_record_as_it_was(backend: StreamingBackend) -> None:
    seen: list[tuple[Any, ...]] = []

    async def look(event: BaseEvent, state: int | None) -> int:
        seen.append((event.key, event.offset, event.event_id, event.timestamp.timestamp()))
        return 1

    stream = await make(backend, handler=look, key=lambda event: event.colour)
    record_id = await stream.emit({"timestamp": 1, "colour": "red"}, TOPIC, key="mine")
    await finish(stream, 1)
    assert seen == [("mine", record_id, f"{TOPIC}/{record_id}", 1.0)]
    assert await results(stream) == [(("red", 0), 1)]


async def test_a_late_record_goes_unchanged_beside_its_source(backend: StreamingBackend) -> None:
    stream = await make(backend)
    await stream.emit_many([{"timestamp": at, "key": "one", "colour": "red"} for at in (1, 30)], TOPIC)
    value, headers = b'{"timestamp": 2,  "colour":"red"}', b'{"from":"afar"}'
    late = NewRecord(b"one", value, headers, 5_000)

    async def is_late() -> bool:
        return bool(await read_events(stream.broker, f"{TOPIC}-late"))

    async with running(stream):

        async def is_out() -> bool:
            return bool(await results(stream))

        await wait_until(is_out, within_ms=20_000)
        [place] = await stream.broker.append(TOPIC, [late])
        await wait_until(is_late, within_ms=20_000)
    [record] = await stream.broker.read(f"{TOPIC}-late", place.partition, offset=0, max_records=10)
    assert (record.raw_key, record.value, record.timestamp_ms) == (b"one", value, 5_000)
    assert record.headers["from"] == "afar"
    assert record.headers["pspf-late-original-id"] == place.id
    assert not [name for name in record.headers if name.startswith("pspf-source")]


@SOME
async def test_records_without_a_grouping_key_are_together(backend: StreamingBackend) -> None:
    stream = await make(backend)
    await stream.emit_many([{"timestamp": 1, "key": f"k{n}"} for n in range(20)], TOPIC)
    await finish(stream, 1)
    assert await results(stream) == [((None, 0), 20)]


@SOME
async def test_a_record_whose_grouping_key_can_not_be_told_is_a_dead_letter_of_its_source(
    backend: StreamingBackend,
) -> None:
    def colour(event: BaseEvent) -> Any:
        extra = event.model_extra or {}
        if extra["n"] == 3:
            raise RuntimeError("no colour")
        return extra["colour"]

    events = ticks(100)
    policy = RetryPolicy(max_attempts=3, initial_ms=20, max_ms=20)
    stream = await make(backend, key=colour, retry=policy)
    await stream.emit_many(events, TOPIC)
    wanted = expected([event for event in events if event["n"] != 3])
    await finish(stream, len(wanted))
    assert sorted(await results(stream)) == sorted(wanted.items())
    assert [(letter.topic, letter.error) for letter in await read_letters(stream.broker)] == [(TOPIC, "no colour")]


@SOME
@pytest.mark.parametrize("is_trimmed", [False, True], ids=["kept", "trimmed"])
async def test_a_dead_letter_from_behind_the_hop_is_that_of_its_source_and_can_be_replayed(
    backend: StreamingBackend, is_trimmed: bool
) -> None:
    is_mended = False

    async def picky(event: BaseEvent, state: int | None) -> int:
        if event.key == "bad" and not is_mended:
            raise RuntimeError("not this one")
        return (state or 0) + 1

    stream = await make(backend, handler=picky, retry=RetryPolicy(max_attempts=1))
    ids = [await stream.emit({"timestamp": 1, "key": key, "colour": "red"}, TOPIC) for key in ("good", "bad")]

    async def is_dead() -> bool:
        return bool(await read_letters(stream.broker))

    async with running(stream):
        await wait_until(is_dead, within_ms=20_000)
        [letter] = await read_letters(stream.broker)
        assert (letter.topic, letter.original_id, letter.handler) == (TOPIC, ids[1], "t")
        assert letter.record.raw_key == b"bad"
        is_mended = True
        if is_trimmed:
            trimmed = await stream.broker.operations.trim(TOPIC, letter.partition, max_records=0)
            assert trimmed.records > 0
        assert await stream.broker.replay_dead_letters([letter]) == 1
    await finish(stream, 1)
    assert await results(stream) == [(("red", 0), 2)]


@SOME
async def test_sessions_behind_a_hop_merge_over_source_partitions(backend: StreamingBackend) -> None:
    async def collect(event: BaseEvent, state: list[int] | None) -> list[int]:
        return sorted([*(state or []), (event.model_extra or {})["n"]])

    stream = await make(backend, window=SessionWindow(2_000), handler=collect)
    events = [{"timestamp": n, "key": f"k{n}", "colour": "red", "n": n} for n in (1, 2, 4, 9, 10)]
    await stream.emit_many(events, TOPIC)
    await finish(stream, 2)
    assert await results(stream) == [(("red", 1), [1, 2, 4]), (("red", 9), [9, 10])]


@SOME
async def test_on_one_partition_there_is_no_hop(backend: StreamingBackend) -> None:
    stream = await make(backend, partitions=1)
    await stream.emit_many(ticks(150), TOPIC)
    await run_until_drained(stream)
    assert THROUGH not in {info.topic for info in await stream.broker.list_topics()}
    assert len(await results(stream)) == 5


@SOME
async def test_what_all_are_done_with_does_not_stay_in_the_internal_topic(backend: StreamingBackend) -> None:
    stream = await make(backend)
    await stream.emit_many(ticks(100), TOPIC)
    await finish(stream, 5)
    info, _ = await stream.broker.read_topic(THROUGH)
    assert (info.partitions, info.retention_ms) == (4, 0)


@SOME
@pytest.mark.parametrize("event", [{"timestamp": 1}, {"timestamp": 1, "key": "other"}], ids=["no key", "another key"])
async def test_without_a_key_of_its_own_a_window_over_partitions_takes_only_records_that_lie_by_it(
    backend: StreamingBackend, event: dict[str, Any]
) -> None:
    stream = await make(backend, key=None)
    key = None if "key" not in event else "mine"
    await stream.emit(event, TOPIC, key=key)
    await stream.emit({"timestamp": 1, "key": "a"}, TOPIC)
    await run_until_drained(stream)
    [letter] = await read_letters(stream.broker)
    assert (letter.error_type, letter.attempts) == ("SchemaError", 1)
    assert "4 partitions" in letter.error


@SOME
async def test_another_number_of_partitions_than_the_internal_topic_has_is_refused(backend: StreamingBackend) -> None:
    stream = await make(backend)
    await stream.broker.create_topic(THROUGH, partitions=3)
    with pytest.raises(TopicMismatch, match=f"pspf topics delete {THROUGH}") as refused:
        await stream.run_forever()
    assert "topics repartition" not in str(refused.value)


async def test_a_record_on_its_way_through_the_internal_topic_is_counted_once(backend: StreamingBackend) -> None:
    stream = await make(backend)
    await stream.emit_many(ticks(200), TOPIC)
    await finish(stream, 1)
    assert sum(counters.processed for counters in stream.telemetry.snapshot()) == 200


@SOME
async def test_time_stands_still_over_a_record_that_waits_before_the_internal_topic(backend: StreamingBackend) -> None:
    """Its grouping key can't be told at first; windows that close meanwhile would make it late."""
    fails = iter((True, True))

    def colour(event: BaseEvent) -> Any:
        extra = event.model_extra or {}
        if extra["n"] == 1 and next(fails, False):
            raise RuntimeError("not now")
        return extra["colour"]

    stream = await make(backend, key=colour, retry=RetryPolicy(max_attempts=5, initial_ms=300, max_ms=300))
    one = key_in(0, 4)
    other = key_in(0, 4, beside=[one])  # whose records come in between, as nothing holds them back
    events = [
        {"timestamp": at, "key": key, "colour": "red", "n": n}
        for n, (at, key) in enumerate(((1, one), (2, one), (40, other), (41, other)))
    ]
    await stream.emit_many(events, TOPIC)

    async def is_out() -> bool:
        return bool(await results(stream))

    async with running(stream):
        await wait_until(is_out, within_ms=20_000)
    assert await results(stream) == [(("red", 0), 2)]
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


@SOME
async def test_the_time_of_others_is_taken_over_only_after_a_read_that_began_when_it_was_known(
    backend: StreamingBackend,
) -> None:
    """What they told may lie behind a record of our own that the read under way then has not seen."""
    stream = await make(backend)
    subscription, _ = stream.subscriptions[0].over(4)
    member = await own(backend.broker, topic=TOPIC, group=GROUP, handler="t")

    async def ask(_doing: str, act: Any) -> Any:
        return await act()

    async def read_others() -> dict[int, int]:
        return {1: 100}

    definition = subscription.operator
    assert definition is not None
    scope = OperatorScope(
        member.consumer, KeyOrder((), 0), ask, SystemClock(), EffectLimits(), 1_000, lambda: None, read_others
    )
    around = CursorHandlerScope("", {}, 1, 1, None, "", set(), backend.broker, None, lambda _, headers: headers)
    hop = ShuffleSender(OperatorContext(subscription, definition, make_decoder(subscription.model), around, scope))
    silence = IdleTracker()
    silence.begin_read(0)
    silence.go_on()
    await hop.on_idle(silence)
    await hop.on_idle(silence)
    assert not hop.has_work, "the only read began before anything was known of the others"
    silence.begin_read(1)
    silence.go_on()
    await hop.on_idle(silence)
    assert hop.has_work
    await member.session.close()

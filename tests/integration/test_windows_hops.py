"""The internal topic of a repartitioned window, as bursts and operators see it."""

from typing import Any

import pytest
import pytest_asyncio

from pspf import Count, MemoryBackend, Stream, TumblingWindow
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import TopicPosition
from pspf.cli.services.seek import Seeking
from pspf.cli.services.shuffle_topics import check_idle, find_hops
from pspf.errors import Refused
from pspf.runtime.app.work import CursorName, Work
from pspf.runtime.worker.drain import finish, is_drained, read_lag
from pspf.windowing.shuffle import mark
from tests.integration.running import read_events, run_until_drained, running, wait_until

TOPIC = "ticks"
THROUGH = "sums.t.repartition"
MINE = CursorName(TOPIC, "sums", "t")
WORK = Work((MINE,), ((MINE,),))


@pytest_asyncio.fixture
async def stream() -> Stream:
    """A stream with one repartitioned window of colours, and events for one window of it."""
    made = Stream(MemoryBackend(stream_key=TOPIC, group_name="sums"))
    await made.broker.connect()
    await made.broker.create_topic(TOPIC, partitions=4)
    made.window(TOPIC, TumblingWindow(10_000), key="colour", emit="final", to="out", name="t")(Count())
    await emit(made)
    return made


async def emit(stream: Stream) -> None:
    events = [{"timestamp": n / 10, "key": f"k{n % 7}", "colour": f"c{n % 3}"} for n in range(60)]
    await stream.emit_many(events, TOPIC)


async def work_through(stream: Stream) -> None:
    """Run until a burst would end, with `--final`."""
    async with running(stream):

        async def nothing_is_left() -> bool:
            return await is_drained(stream.broker, WORK)

        await wait_until(nothing_is_left)
        await finish(stream.broker, WORK, stream.finish)


async def out(stream: Stream) -> list[tuple[Any, Any]]:
    return sorted((event["key"], event["value"]) for event in await read_events(stream.broker, "out"))


async def test_a_burst_waits_for_what_is_behind_the_hop_and_finishes_it(stream: Stream) -> None:
    await work_through(stream)
    assert await out(stream) == [("c0", 20), ("c1", 20), ("c2", 20)]


async def test_lag_counts_what_is_on_its_way(stream: Stream) -> None:
    await work_through(stream)
    assert await read_lag(stream.broker, [MINE]) == 0
    await stream.broker.append(THROUGH, [mark((TOPIC, 0), 1, b"k")])
    assert await read_lag(stream.broker, [MINE]) == 1


async def test_a_seek_that_forgets_begins_anew_on_both_sides(stream: Stream) -> None:
    await work_through(stream)
    seeking = Seeking("sums", TopicPosition(start=True), None, None, None, keep_state=False, force=False)
    done, error = await seeking.execute(stream.broker, await seeking.plan(stream.broker))
    assert error is None
    assert {seek.cursor.topic for seek in done} == {TOPIC, THROUGH}
    await work_through(stream)
    assert await out(stream) == sorted(2 * [("c0", 20), ("c1", 20), ("c2", 20)])
    assert await read_events(stream.broker, f"{TOPIC}-late") == []


async def test_a_seek_of_one_partition_can_not_forget_the_windows_of_all(stream: Stream) -> None:
    await run_until_drained(stream)
    for keep_state in (False, None):
        seeking = Seeking("sums", TopicPosition(start=True), None, None, 1, keep_state=keep_state, force=False)
        with pytest.raises(UsageError, match="leave --partition out"):
            await seeking.plan(stream.broker)
    seeking = Seeking("sums", TopicPosition(start=True), None, None, 1, keep_state=True, force=False)
    assert [seek.cursor.topic for seek in await seeking.plan(stream.broker)] == [TOPIC]


async def test_internal_topics_are_found_by_group_and_by_topic(stream: Stream) -> None:
    assert await find_hops(stream.broker) == []
    await run_until_drained(stream)
    assert await find_hops(stream.broker, group="sums") == [THROUGH]
    assert await find_hops(stream.broker, topic=TOPIC) == [THROUGH]
    assert await find_hops(stream.broker, topic="out") == []
    assert await find_hops(stream.broker, group="other") == []


async def test_what_is_remembered_behind_a_hop_is_not_forgotten_unasked(stream: Stream) -> None:
    async with running(stream):

        async def nothing_is_left() -> bool:
            return await is_drained(stream.broker, WORK)

        await wait_until(nothing_is_left)
    with pytest.raises(Refused, match="--reset-state"):
        await check_idle(stream.broker, [THROUGH], reset_state=False)
    await check_idle(stream.broker, [THROUGH], reset_state=True)

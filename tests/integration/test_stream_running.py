"""A Stream's life: what it opens, how it ends, what it refuses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pspf import Context, MemoryBackend, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.errors import ConfigurationError, NotAvailable, NotFound, TopicMismatch
from pspf.settings import settings
from pspf.state.memory import MemoryStateStore
from pspf.subscription import Ordering
from tests.integration.running import (
    GROUP,
    QUICK,
    TOPIC,
    Number,
    drain,
    numbers,
    run_until_drained,
    running,
    until,
    wait_until,
)


async def test_what_is_emitted_is_handled_once(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        seen.append(event.n)

    ids = await stream.emit_many(numbers(50))
    await run_until_drained(stream)
    assert seen == list(range(50))
    assert len(set(ids)) == 50


def test_making_a_stream_opens_nothing(tmp_path: Path) -> None:
    Stream(StreamingBackend(SQLiteBroker(tmp_path / "broker.db"), TOPIC, GROUP))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("topic", "group"), [(None, None), ("t", None), (None, "g")])
def test_a_stream_without_a_backend_needs_topic_and_group(topic: str | None, group: str | None) -> None:
    with pytest.raises(ValueError, match="topic= and group="):
        Stream(topic=topic, group=group)


async def test_a_handler_that_stops_its_stream_is_committed(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC, 10)
    async def handle(event: Number) -> None:
        seen.append(event.n)
        if event.n == 4:
            await stream.stop()

    await stream.emit_many(numbers(30))
    async with asyncio.timeout(5):
        await stream.run_forever()
    assert seen == [0, 1, 2, 3, 4]
    await run_until_drained(stream)
    assert sorted(seen) == list(range(30))


async def test_a_handler_of_whole_batches_can_stop_its_stream(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC)
    async def handle(events: list[Number]) -> None:
        await stream.stop()

    await stream.emit_many(numbers(3))
    async with asyncio.timeout(5):
        await stream.run_forever()


async def test_a_plain_handler_can_stop_its_stream(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    loop = asyncio.get_running_loop()

    @stream.subscribe(TOPIC)
    def handle(event: Number) -> None:
        asyncio.run_coroutine_threadsafe(stream.stop(), loop).result()

    await stream.emit_many(numbers(3))
    async with asyncio.timeout(5):
        await stream.run_forever()


async def test_stopping_twice_at_once_waits_for_the_end_both_times(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    is_held, goes_on = asyncio.Event(), asyncio.Event()

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        is_held.set()
        await goes_on.wait()

    await stream.emit(numbers(1)[0])
    task = asyncio.create_task(stream.run_forever())
    await is_held.wait()
    stops = [asyncio.create_task(stream.stop()) for _ in range(2)]
    await asyncio.wait(stops, timeout=0.05)
    assert not any(stop.done() for stop in stops)
    goes_on.set()
    await asyncio.gather(*stops)
    assert task.done()
    await task


async def test_a_stop_before_anything_runs_does_nothing(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        seen.append(event.n)

    await stream.stop()
    await stream.emit_many(numbers(3))
    await stream.stop()
    await stream.stop()
    await run_until_drained(stream)
    assert seen == [0, 1, 2]


async def test_stopping_an_idle_stream_takes_no_poll_to_end(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None: ...

    @stream.subscribe(TOPIC, ordering="key")
    async def handle_in_order(event: Number) -> None: ...

    task = asyncio.create_task(stream.run_forever())
    await stream.emit_many(numbers(3))
    await drain(stream)
    async with asyncio.timeout(1):
        await stream.stop()
    await task


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_giving_up_commits_nothing_of_the_batch_in_hand(backend: StreamingBackend, ordering: Ordering) -> None:
    stream = Stream(backend)
    seen: list[int] = []
    runs: list[int] = []

    @stream.subscribe(TOPIC, ordering=ordering, batch_size=3)
    async def handle(event: Number, ctx: Context) -> None:
        runs.append(ctx.attempt)
        ctx.emit({"n": event.n}, topic="out")
        if len(runs) == 2:
            stream.give_up()
            stream.give_up()
            await asyncio.sleep(60)
        seen.append(event.n)

    await stream.emit_many(numbers(3))
    async with asyncio.timeout(5):
        await stream.run_forever()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert seen == [0]
    await run_until_drained(stream)
    assert seen == [0, 0, 1, 2]
    assert runs == [1] * 5, "shutting down is no attempt"


async def test_a_handler_that_swallows_its_cancellation_is_not_committed(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    runs: list[int] = []

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        runs.append(event.n)
        if len(runs) == 1:
            stream.give_up()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return

    await stream.emit(numbers(1)[0])
    async with asyncio.timeout(5):
        await stream.run_forever()
    await run_until_drained(stream)
    assert runs == [0, 0]


async def test_cancelling_the_task_that_runs_a_stream_cancels_it(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    runs: list[int] = []

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        runs.append(event.n)
        await asyncio.sleep(60 if len(runs) == 1 else 0)

    await stream.emit(numbers(1)[0])
    task = asyncio.create_task(stream.run_forever())
    await until(lambda: runs == [0])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await run_until_drained(stream)
    assert runs == [0, 0]


async def test_a_stream_without_handlers_says_so_and_returns(
    backend: StreamingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await Stream(backend).run_forever()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no handlers to run" in caplog.text


async def test_a_stream_runs_once_at_a_time(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None: ...

    async with running(stream):
        with pytest.raises(ConfigurationError, match="runs already"):
            await stream.run_forever()


async def test_run_takes_one_handler_for_the_default_topic(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    async def handle(event: Number) -> None:
        seen.append(event.n)
        if event.n == 2:
            await stream.stop()

    await stream.emit_many(numbers(3))
    async with asyncio.timeout(5):
        await stream.run(handle, batch_size=10)
    assert seen == [0, 1, 2]
    assert stream.subscriptions == []


def test_a_memory_backend_outlives_event_loops() -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC, ordering="key")
    async def handle(event: Number, ctx: Context) -> None:
        seen.append(event.n)
        await ctx.state.put("count", await ctx.state.get("count", 0) + 1)

    async def emit(start: int) -> None:
        await stream.emit_many(numbers(3, start=start))
        await stream.stop()

    async def read() -> int:
        async with stream:
            return int(await stream.read_state(handle, "a", "count"))

    asyncio.run(emit(0))
    asyncio.run(run_until_drained(stream))
    asyncio.run(emit(3))
    asyncio.run(run_until_drained(stream))
    assert seen == list(range(6))
    assert asyncio.run(read()) == 6


async def test_a_lifespan_is_around_the_handlers(backend: StreamingBackend) -> None:
    said: list[str] = []

    @asynccontextmanager
    async def lifespan(stream: Stream) -> AsyncIterator[None]:
        said.append("up")
        yield
        said.append("down")

    stream = Stream(backend, lifespan=lifespan)

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        said.append("event")

    @stream.subscribe(TOPIC, ordering="key")
    async def handle_in_order(event: Number) -> None:
        said.append("event")

    await stream.emit(numbers(1)[0])
    await run_until_drained(stream)
    assert said == ["up", "event", "event", "down"]


async def test_an_included_stream_brings_its_handlers(backend: StreamingBackend) -> None:
    seen: list[int] = []
    other = Stream(MemoryBackend(stream_key="unused", group_name="theirs"))

    @other.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        seen.append(event.n)

    stream = Stream(backend)
    stream.include(other)
    await stream.emit_many(numbers(2))
    await run_until_drained(stream)
    assert seen == [0, 1]


async def test_entering_a_stream_makes_its_topic_and_group(backend: StreamingBackend) -> None:
    async with Stream(backend):
        cursors = await backend.broker.list_cursors(group=GROUP, topic=TOPIC)
        assert [cursor.lag for cursor in cursors] == [0]


async def test_entering_a_stream_makes_no_cursor_that_none_of_its_handlers_reads(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", name="counts")
    async def handle(event: Number) -> None: ...

    async with stream:
        assert [info.cursor.handler for info in await backend.broker.list_cursors()] == ["counts"]


async def test_a_topic_of_another_number_of_partitions_is_refused(backend: StreamingBackend) -> None:
    await Stream(backend, partitions=3).emit(numbers(1)[0])
    with pytest.raises(TopicMismatch, match="3"):
        await Stream(backend, partitions=2).emit(numbers(1)[0])
    await Stream(backend).emit(numbers(1)[0])


async def test_all_partitions_of_a_topic_are_consumed(backend: StreamingBackend) -> None:
    stream = Stream(backend, partitions=4)
    seen: dict[str, list[int]] = {"shared": [], "ordered": []}

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        seen["shared"].append(event.n)

    @stream.subscribe(TOPIC, ordering="key")
    async def handle_in_order(event: Number) -> None:
        seen["ordered"].append(event.n)

    await stream.emit_many(numbers(40, keys="abcdefgh"))
    await run_until_drained(stream)
    assert {name: sorted(found) for name, found in seen.items()} == {name: list(range(40)) for name in seen}
    of_a_key = [n for n in seen["ordered"] if n % 8 == 3]
    assert of_a_key == sorted(of_a_key)


async def test_health_needs_no_connection_and_leaves_none(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    assert await stream.health() == {"status": "ok", "backend": "connected"}
    async with stream:
        assert await stream.health() == {"status": "ok", "backend": "connected"}
        await stream.emit(numbers(1)[0])
    assert await stream.health() == {"status": "ok", "backend": "connected"}


async def test_health_of_a_broker_that_is_not_there_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    stream = Stream(StreamingBackend(SQLiteBroker(tmp_path / "file" / "broker.db"), TOPIC, GROUP))
    health = await stream.health()
    assert health["status"] == "error"
    assert "broker.db" in health["reason"]


async def test_what_a_handler_remembers_is_read_from_outside(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", name="counts")
    async def handle(event: Number, ctx: Context) -> None:
        await ctx.state.put("last", {"n": event.n})

    await stream.emit_many(numbers(4, keys="ab"))
    await run_until_drained(stream)
    async with stream:
        assert await stream.read_state("counts", "a", "last") == {"n": 2}
        assert await stream.read_state(handle, "b", "last") == {"n": 3}
        assert await stream.read_state(handle, "c", "last") is None
        with pytest.raises(NotFound, match=r"no ordered handler 'count'; there are \['counts'\]"):
            await stream.read_state("count", "a", "last")


async def test_ordered_state_in_a_users_store_is_refused(backend: StreamingBackend) -> None:
    stream = Stream(backend, state_store=MemoryStateStore())

    async def handle(event: Number) -> None: ...

    with pytest.raises(NotAvailable, match="leave state_store out"):
        await stream.run(handle, ordering="key")
    stream.subscribe(TOPIC, ordering="key")(handle)
    with pytest.raises(NotAvailable, match="leave state_store out"):
        await stream.run_forever()


async def test_two_shared_handlers_of_one_topic_and_group_are_refused(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC)
    async def first(event: Number) -> None: ...

    @stream.subscribe(TOPIC)
    async def second(event: Number) -> None: ...

    with pytest.raises(ConfigurationError, match="give each its own group="):
        await stream.run_forever()


async def test_two_ordered_handlers_of_one_name_are_refused(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", name="same")
    async def first(event: Number) -> None: ...

    @stream.subscribe(TOPIC, ordering="key", name="same")
    async def second(event: Number) -> None: ...

    with pytest.raises(ConfigurationError, match="pass name="):
        await stream.run_forever()


async def test_a_handler_without_a_policy_of_its_own_is_retried_as_the_settings_say(
    backend: StreamingBackend, setting: Callable[[str, object], None]
) -> None:
    setting("PSPF_RETRY_MAX_ATTEMPTS", 2)
    setting("PSPF_RETRY_INITIAL_MS", 30)
    stream = Stream(backend)
    attempts: list[int] = []

    @stream.subscribe(TOPIC)
    async def handle(event: Number, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("no")

    await stream.emit(numbers(1)[0])
    await run_until_drained(stream)
    assert attempts == [1, 2]


def test_a_start_that_is_none_ends_the_run() -> None:
    stream = Stream(MemoryBackend(stream_key=TOPIC, group_name=GROUP))

    @stream.subscribe(TOPIC, start="yesterday", retry=QUICK)
    async def handle(event: Number) -> None: ...

    with pytest.raises(ConfigurationError, match="yesterday"):
        asyncio.run(stream.run_forever())


async def test_two_workers_share_the_partitions_of_an_ordered_handler(tmp_path: Path) -> None:
    limits = Limits(synchronous="NORMAL", lease_ms=300, renew_ms=90)
    seen: dict[str, list[int]] = {"one": [], "two": []}

    def make(name: str) -> Stream:
        stream = Stream(StreamingBackend(SQLiteBroker(tmp_path / "b.db", limits), TOPIC, GROUP), partitions=4)

        @stream.subscribe(TOPIC, ordering="key", name="shared out")
        async def handle(event: Number) -> None:
            seen[name].append(event.n)

        return stream

    one, two = make("one"), make("two")
    async with running(one):
        await one.emit_many(numbers(16, keys="abcdefgh"))
        await until(lambda: len(seen["one"]) == 16)
        async with running(two):

            async def both_own_two() -> bool:
                owners = [cursor.owner for cursor in await one.broker.list_cursors()]
                return sorted(owners.count(owner) for owner in set(owners)) == [2, 2]

            await wait_until(both_own_two, within_ms=8_000)
            await one.emit_many(numbers(16, keys="abcdefgh", start=16))
            await drain(one)
    assert sorted(seen["one"] + seen["two"]) == list(range(32))
    assert seen["two"]


async def test_streams_that_share_a_backend_do_not_close_it_under_each_other(backend: StreamingBackend) -> None:
    reader, writer = Stream(backend), Stream(backend)
    seen: list[int] = []

    @reader.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        seen.append(event.n)

    async with running(reader):
        for n in range(3):
            async with writer:
                await writer.emit(Number(n=n))
            assert await Stream(backend).health() == {"status": "ok", "backend": "connected"}
        await until(lambda: len(seen) == 3)
        assert await writer.emit(Number(n=3))
        await until(lambda: len(seen) == 4)
    await writer.stop()


def test_the_settings_choose_a_broker_at_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound, chosen = Stream(topic=TOPIC, group=GROUP), Stream(topic=TOPIC, group=GROUP)
    bound.bind(SQLiteBroker(tmp_path / "broker.db"))
    assert bound.backend.stream_key == TOPIC
    monkeypatch.setitem(vars(settings), "BACKEND", "nosuch://here")
    with pytest.raises(ConfigurationError, match="nosuch"):
        _ = chosen.broker

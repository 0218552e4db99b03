"""One Stream and its broker, shared by tasks and by event loops: who connects, who is cancelled, who closes."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pspf import Stream
from pspf.connectors.base import Limits, StreamingBackend
from pspf.connectors.memory import MemoryBroker
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connector import ValkeyConnector
from pspf.errors import BackendUnavailable
from pspf.state.sqlite import SQLiteStateStore
from tests.integration.running import GROUP, TOPIC, Number, numbers, read_events, run_until_drained, running, until
from tests.support.brokers import Kind
from tests.support.servers import Server, find


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_a_task_that_is_cancelled_while_it_connects_disturbs_no_other(
    backend: StreamingBackend, turns: int
) -> None:
    stream = Stream(backend, partitions=2)
    first, second = (asyncio.create_task(stream.emit({"n": n})) for n in (1, 2))
    for _ in range(1 + turns):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await second
    await stream.emit({"n": 3})
    assert {2, 3} <= {event["n"] for event in await read_events(backend.broker, TOPIC)}
    await stream.stop()


async def test_one_that_leaves_while_others_come_closes_nothing_under_them(backend: StreamingBackend) -> None:
    stream, other = Stream(backend), Stream(backend)

    async def come_and_go(each: Stream, n: int) -> None:
        for _ in range(10):
            await each._connect()
            await each.broker.list_topics()
            if n:
                await each._disconnect()

    await asyncio.gather(come_and_go(stream, 0), come_and_go(other, 1), come_and_go(stream, 0))
    await stream.emit({"n": 1})
    await stream.stop()
    assert not backend.broker.is_open


async def test_a_stream_whose_broker_was_closed_past_it_connects_again(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    await stream.emit({"n": 1})
    await backend.close()
    await stream.emit({"n": 2})
    await stream.stop()
    assert [event["n"] for event in await read_events(backend.broker, TOPIC)] == [1, 2]


class Away(MemoryBroker):
    """A broker that can't be reached, which takes its time to find out."""

    tries = 0

    async def _open(self) -> None:
        self.tries += 1
        await asyncio.sleep(0.01)
        raise BackendUnavailable("away")


async def test_many_tasks_wait_once_for_a_broker_that_is_away() -> None:
    broker = Away()
    stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
    errors = await asyncio.gather(*[stream.emit({"n": n}) for n in range(50)], return_exceptions=True)
    assert {type(error) for error in errors} == {BackendUnavailable}
    assert broker.tries <= 2


async def test_a_state_store_that_two_streams_start_at_once_outlives_the_cancellation_of_one(tmp_path: Path) -> None:
    store = SQLiteStateStore(tmp_path / "state.db", synchronous="NORMAL")
    first, second = (asyncio.create_task(store.start()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await second
    await store.put("key", 1)
    assert await store.get("key") == 1
    await store.stop()


# Event loops


def run_in_threads(make: Callable[[int], Coroutine[Any, Any, Any]], count: int) -> list[BaseException]:
    """Run each coroutine in an event loop of a thread of its own, all at once; return what they raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            asyncio.run(make(number))
        except BaseException as error:  # the boundary of the thread: the test looks at it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_emit_at_once_each_in_an_event_loop_of_its_own(kind: Kind, tmp_path: Path) -> None:
    """As a threaded web server does: `asyncio.run(stream.emit(...))` in each request."""
    stream = Stream(StreamingBackend(kind.make(tmp_path, Limits(synchronous="NORMAL"), None), TOPIC, GROUP))

    async def request(thread: int) -> None:
        for call in range(5):
            await stream.emit({"n": thread * 5 + call})

    assert run_in_threads(request, 8) == []

    async def finish() -> list[int]:
        found = await read_events(stream.broker, TOPIC)
        await stream.stop()
        return sorted(event["n"] for event in found)

    assert asyncio.run(finish()) == list(range(40))


async def test_plain_handlers_emit_in_event_loops_of_their_own(backend: StreamingBackend) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, concurrency=4)
    def handle(event: Number) -> None:
        asyncio.run(stream.emit({"n": event.n}, topic="out"))

    await stream.emit_many(numbers(30))
    await run_until_drained(stream)
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == list(range(30))


async def test_a_stream_that_runs_is_stopped_from_another_event_loop(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    seen: list[int] = []

    @stream.subscribe(TOPIC)
    async def handle(event: Number) -> None:
        seen.append(event.n)

    async with running(stream) as task:
        await stream.emit({"n": 1})
        await until(lambda: seen == [1])
        await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(stream.stop()))
        await task


def test_the_connections_of_an_event_loop_end_with_it(tmp_path: Path) -> None:
    with Server(find("valkey"), tmp_path) as server:
        broker = ValkeyBroker(ValkeyConnector("127.0.0.1", server.port))
        stream = Stream(StreamingBackend(broker, TOPIC, GROUP))
        for n in range(5):
            asyncio.run(stream.emit({"n": n}))
        clients = server.call("CLIENT", "LIST", "TYPE", "NORMAL").decode().splitlines()
        assert [line for line in clients if "name=pspf" in line] == []

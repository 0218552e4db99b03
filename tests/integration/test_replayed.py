"""Handlers of all shapes run trimmed records again from their dead letters, and no other group sees them."""

from typing import Any

import apsw
import pytest

from pspf import BaseEvent, RetryPolicy, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.connectors.valkey.broker import ValkeyBroker
from tests.integration.running import (
    TOPIC,
    Number,
    drain,
    numbers,
    read_events,
    read_letters,
    run_until_drained,
    running,
    wait_until,
)
from tests.integration.test_handlers_failing import MODES, Failing
from tests.support.servers import hall


async def trim(backend: StreamingBackend) -> StoredDeadLetter:
    """Trim all of the topic; return the one dead letter."""
    (letter,) = await read_letters(backend.broker)
    await backend.broker.operations.trim(TOPIC, letter.partition, max_records=0)
    return letter


def read_kept(backend: StreamingBackend) -> list[Any]:
    """Return what the broker's storage holds of retries and replayed records."""
    broker = backend.broker
    if isinstance(broker, SQLiteBroker):
        connection = apsw.Connection(str(broker._path))
        rows = connection.execute("SELECT offset FROM retries UNION ALL SELECT offset FROM replayed").fetchall()
        connection.close()
        return rows
    if isinstance(broker, ValkeyBroker):
        connector = broker._core.connector
        kind = next(name for name in ("valkey", "redis") if hall(name).server.port == connector.port)
        keys: list[bytes] = hall(kind).server.call("KEYS", "pspf:{*}:*", database=connector.db)
        return [key for key in keys if key.split(b"}:")[1].partition(b":")[0] in (b"retry", b"lent", b"due")]
    return []


@pytest.mark.parametrize(("ordering", "shape"), MODES)
async def test_a_trimmed_record_runs_again_in_the_handler_that_gave_it_up_and_in_no_other(
    backend: StreamingBackend, ordering: Any, shape: str
) -> None:
    stream = Stream(backend)
    failing = Failing({1: 4})  # given up after 3, and fails once more when it is replayed
    failing.subscribe(stream, shape, ordering=ordering)
    others: list[int] = []

    @stream.subscribe(TOPIC, group="others")
    async def other(event: Number) -> None:
        others.append(event.n)

    async with running(stream):
        await stream.emit_many(numbers(3))
        await drain(stream)
        letter = await trim(backend)
        assert await backend.broker.replay_dead_letters([letter]) == 1
        assert await backend.broker.replay_dead_letters([letter]) == 0
        await stream.emit_many(numbers(1, start=3))
        await drain(stream)
    assert failing.runs.count(1) == 5
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == [0, 1, 2, 3]
    assert sorted(others) == [0, 1, 2, 3]
    assert read_kept(backend) == [], "the bytes are gone"


async def test_a_trimmed_record_takes_its_place_in_its_window(backend: StreamingBackend) -> None:
    is_mended = False
    seen: list[int] = []

    async def picky(event: BaseEvent, state: int | None) -> int:
        if event.key == "bad" and not is_mended:
            raise RuntimeError("not this one")
        return (state or 0) + 1

    stream = Stream(backend)
    window: dict[str, Any] = {"key": lambda event: "all", "emit": "final", "to": "out", "name": "sum"}
    stream.window(TOPIC, TumblingWindow(10_000), retry=RetryPolicy(max_attempts=1), **window)(picky)

    @stream.subscribe(TOPIC, group="others")
    async def other(event: BaseEvent) -> None:
        seen.append(1)

    async with running(stream):
        await stream.emit_many([{"timestamp": at, "key": key} for at, key in ((1, "good"), (2, "bad"), (3, "good"))])
        await drain(stream)
        letter = await trim(backend)
        is_mended = True
        assert await backend.broker.replay_dead_letters([letter]) == 1
        await drain(stream)

        async def is_out() -> bool:
            stream.finish()
            return bool(await read_events(backend.broker, "out"))

        await wait_until(is_out, within_ms=20_000)
    results = await read_events(backend.broker, "out")
    assert [(event["value"], event["window_start_ms"]) for event in results] == [(3, 0)]
    assert len(seen) == 3
    assert read_kept(backend) == []


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_trimmed_record_is_replayed_for_a_worker_that_starts_later(
    backend: StreamingBackend, ordering: Any
) -> None:
    failing = Failing({1: 3})
    first, second = Stream(backend), Stream(backend)
    for stream in (first, second):
        failing.subscribe(stream, "async", ordering=ordering)
    await first.emit_many(numbers(3))
    await run_until_drained(first)
    letter = await trim(backend)
    assert await backend.broker.replay_dead_letters([letter]) == 1
    await run_until_drained(second)
    assert failing.runs.count(1) == 4
    assert sorted(event["n"] for event in await read_events(backend.broker, "out")) == [0, 1, 2]


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_the_bytes_of_a_dropped_record_are_gone(backend: StreamingBackend, ordering: Any) -> None:
    stream = Stream(backend)
    Failing({1: 3}).subscribe(stream, "async", ordering=ordering)
    await stream.emit_many(numbers(3))
    await run_until_drained(stream)
    letter = await trim(backend)
    assert await backend.broker.replay_dead_letters([letter]) == 1
    waiting = await backend.broker.operations.list_pending(letter.group)
    assert await backend.broker.operations.drop_pending(waiting) == 1
    assert read_kept(backend) == []

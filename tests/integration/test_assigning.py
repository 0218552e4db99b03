"""Apps on a broker of the ordered mode alone that assigns partitions by itself."""

import asyncio
from collections import Counter

import pytest

from pspf import Context, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.errors import NotAvailable
from pspf.testing import StreamTester
from tests.integration.running import (
    GROUP,
    TOPIC,
    Number,
    drain,
    numbers,
    read_events,
    run_until_drained,
    running,
    until,
)
from tests.support.assigning import AssigningBroker

ONCE = RetryPolicy(max_attempts=1)
QUICK = RetryPolicy(max_attempts=2, initial_ms=20, max_ms=20)


def make_stream(broker: AssigningBroker) -> Stream:
    return Stream(StreamingBackend(broker, TOPIC, GROUP))


async def test_two_workers_divide_the_partitions_and_each_event_is_handled_once() -> None:
    broker = AssigningBroker(Limits(lease_ms=300, renew_ms=100))
    await broker.create_topic(TOPIC, partitions=4)
    handled: Counter[int] = Counter()
    by: dict[int, set[int]] = {0: set(), 1: set()}
    streams = [make_stream(broker) for _ in range(2)]
    for number, stream in enumerate(streams):

        async def handle(event: Number, number: int = number) -> None:
            handled[event.n] += 1
            by[number].add(event.n)
            await asyncio.sleep(0)

        stream.subscribe(TOPIC, ordering="key", name="count")(handle)
    async with running(streams[0]):
        await streams[0].emit_many(numbers(100, keys="abcdefgh"))
        await drain(streams[0])
        async with running(streams[1]):
            await until(lambda: len({info.owner for info in broker.places.values()}) == 2)
            await streams[1].emit_many(numbers(100, keys="abcdefgh", start=100))
            await drain(*streams)
        await until(lambda: len({info.owner for info in broker.places.values()}) == 1)
        await streams[0].emit_many(numbers(100, keys="abcdefgh", start=200))
        await drain(streams[0])
    assert handled == Counter(range(300))
    assert by[0] >= {*range(100), *range(200, 300)}
    assert by[1]


async def test_what_fails_is_retried_and_then_dead_and_what_is_emitted_is_stored() -> None:
    broker = AssigningBroker()
    stream = make_stream(broker)
    attempts: Counter[int] = Counter()

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def double(event: Number) -> None:
        attempts[event.n] += 1
        if event.n == 1 or (event.n == 2 and attempts[2] == 1):
            raise ValueError("no such number")

    await stream.emit_many(numbers(4))
    await run_until_drained(stream)
    assert attempts == {0: 1, 1: 2, 2: 2, 3: 1}
    assert [letter.record.value for letter in await broker.list_dead_letters()] != []
    assert [event["n"] for event in await read_events(broker, f"{TOPIC}-dlq")] == [1]


async def test_an_app_with_a_shared_handler_is_refused_with_all_it_needs_in_one_error() -> None:
    stream = make_stream(AssigningBroker())

    @stream.subscribe(TOPIC, name="charge")
    async def charge(event: Number) -> None: ...

    @stream.subscribe(TOPIC, ordering="key", name="total")
    async def total(event: Number, ctx: Context) -> None: ...

    for run in (stream.run_forever, lambda: StreamTester(stream, stream.broker).__aenter__()):
        with pytest.raises(NotAvailable) as refused:
            await run()
        lines = str(refused.value).splitlines()
        assert lines[0] == "assigning lacks what this app needs:"
        assert f"shared mode, for charge on {TOPIC}" in lines[1]
        assert f"state and windows, for total on {TOPIC}" in lines[2]
        assert len(lines) == 4
    assert not stream.broker.is_open


async def test_a_tester_asks_for_pending_records_before_it_begins() -> None:
    stream = make_stream(AssigningBroker())

    @stream.subscribe(TOPIC, ordering="key", retry=QUICK)
    async def double(event: Number) -> None: ...

    with pytest.raises(NotAvailable, match="assigning can't tell what is not done"):
        async with StreamTester(stream, stream.broker):
            pass
    async with StreamTester(stream) as tester:
        await tester.send(TOPIC, {"n": 1, "key": "a"})


async def test_a_stream_that_only_emits_needs_no_shared_mode() -> None:
    broker = AssigningBroker()
    async with make_stream(broker) as stream:
        await stream.emit({"n": 1, "key": "a"})
    assert [event["n"] for event in await read_events(broker, TOPIC)] == [1]

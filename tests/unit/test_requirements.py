"""What an app needs and its broker lacks is refused before anything runs."""

from dataclasses import replace
from typing import Any

import pytest

from pspf import BaseEvent, Context, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.capabilities import Capabilities, describe_all
from pspf.connectors.memory import MemoryBroker
from pspf.errors import EmitUnknown, NotAvailable
from pspf.records import Appended, NewRecord
from pspf.testing import StreamTester
from pspf.windowing.definitions import TumblingWindow

ONCE = RetryPolicy(max_attempts=1)


def make_broker(**lacks: bool) -> MemoryBroker:
    """Return a broker that claims all but what is named."""

    class Lesser(MemoryBroker):
        capabilities: Capabilities = replace(MemoryBroker.capabilities, **lacks)

        async def _open(self) -> None:
            raise AssertionError("it is opened")

    return Lesser()


def make_stream(broker: MemoryBroker) -> Stream:
    return Stream(StreamingBackend(broker, "orders", "billing"))


async def shared(event: BaseEvent) -> None: ...


async def remembers(event: BaseEvent, ctx: Context) -> None: ...


async def count(event: BaseEvent, state: int | None) -> int:
    return (state or 0) + 1


def declare_all(stream: Stream) -> None:
    stream.subscribe("orders", name="charge")(shared)
    stream.subscribe("parcels", name="ship", retry=ONCE)(shared)
    stream.subscribe("orders", name="plain", ordering="key", retry=ONCE)(shared)
    stream.subscribe("orders", name="total", ordering="key")(remembers)
    stream.window("orders", TumblingWindow(1_000), name="hourly", retry=ONCE)(count)


REFUSALS = {
    "shared": ("shared mode, for charge on orders, ship on parcels:", 'ordering="key"'),
    "ordered": ("ordered mode, for plain on orders, total on orders, hourly on orders:", "ordering="),
    "entries": ("state and windows, for total on orders, hourly on orders:", "Context"),
    "retries": ("retries, for charge on orders, total on orders:", "RetryPolicy(max_attempts=1)"),
}


@pytest.mark.parametrize("lacks", REFUSALS)
async def test_each_handler_that_needs_what_the_broker_lacks_is_named_with_a_way_out(lacks: str) -> None:
    stream = make_stream(make_broker(**{lacks: False}))
    declare_all(stream)
    with pytest.raises(NotAvailable) as refused:
        await stream.run_forever()
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert all(part in lines[1] for part in REFUSALS[lacks])


async def test_all_that_is_lacking_is_one_error_that_fits_on_a_screen() -> None:
    stream = make_stream(make_broker(**dict.fromkeys(REFUSALS, False)))
    declare_all(stream)
    with pytest.raises(NotAvailable) as refused:
        stream.check()
    lines = str(refused.value).splitlines()
    assert [line.partition(",")[0].strip() for line in lines[1:-1]] == [
        "shared mode",
        "ordered mode",
        "state and windows",
        "retries",
    ]
    assert len(lines) == 6


@pytest.mark.parametrize("lacks", ["dedup", "crash_counts", "pending", "seek", "replay", "trim", "repartition"])
def test_what_no_handler_needs_may_be_lacking(lacks: str) -> None:
    stream = make_stream(make_broker(**{lacks: False}))
    declare_all(stream)
    stream.check()


def test_a_handler_that_needs_little_runs_on_a_broker_that_has_little() -> None:
    stream = make_stream(make_broker(shared=False, entries=False, retries=False))
    stream.subscribe("orders", ordering="key", retry=ONCE)(shared)
    stream.check()


def test_what_a_broker_can_is_told_in_words_and_what_it_lacks_where_there_is_something() -> None:
    all_of_it = Capabilities(**dict.fromkeys(Capabilities.__slots__, True))
    told = describe_all(all_of_it)
    assert told["partitions"] == "divided by leases among the workers"
    assert told["can"].startswith(
        "shared mode, ordered mode, retries, several topics in one handler, state and windows, "
    )
    assert "lacks" not in told
    told = describe_all(replace(all_of_it, leases=False, dedup=False, trim=False))
    assert (told["partitions"], told["lacks"]) == ("assigned by the broker", "de-duplication, trim")
    assert "trim" not in told["can"]


async def test_one_handler_alone_and_a_tester_are_refused_as_well() -> None:
    stream = make_stream(make_broker(shared=False))
    with pytest.raises(NotAvailable, match="shared mode"):
        await stream.run(shared)
    stream.subscribe("orders")(shared)
    with pytest.raises(NotAvailable, match="shared mode"):
        async with StreamTester(stream, stream.broker):
            pass
    # What counts is the broker that is tested on, not the stream's own.
    async with StreamTester(stream):
        pass


async def test_an_unknown_append_is_not_repeated_where_ids_are_not_known_again() -> None:
    class Forgetful(MemoryBroker):
        capabilities: Capabilities = replace(MemoryBroker.capabilities, dedup=False)
        appends = 0

        async def append(self, topic: str, records: Any) -> list[Appended]:
            type(self).appends += 1
            assert all(isinstance(record, NewRecord) for record in records)
            raise EmitUnknown("it may be stored or not")

    stream = make_stream(Forgetful())
    with pytest.raises(EmitUnknown):
        await stream.emit({"event_id": "one"}, "orders")
    assert Forgetful.appends == 1
    await stream.stop()

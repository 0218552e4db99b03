"""`StreamTester`, on every broker: the same test, with one argument."""

import asyncio
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pspf import BaseEvent, Context, Count, RetryPolicy, Stream, Sum, TumblingWindow, WindowResult
from pspf.connectors.memory import MemoryBackend
from pspf.errors import ConfigurationError, EventRejected, NotSettled
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.worker.drain import is_drained, read_lag
from pspf.testing import ManualClock, StreamTester
from tests.support.brokers import KINDS, Kind
from tests.support.servers import hall

ROOT = Path(__file__).parents[2]
ON_MEMORY = pytest.mark.parametrize("kind", KINDS[:1], ids=["memory"], indirect=True)


@pytest.fixture
def url(kind: Kind, tmp_path: Path) -> str | None:
    """The argument that names the broker; None for the tester's own."""
    if kind.name == "memory":
        return None
    if kind.name == "sqlite":
        return f"sqlite:///{tmp_path / 'broker.db'}"
    shared = hall(kind.name)
    return f"valkey://127.0.0.1:{shared.server.port}/{shared.database_of(tmp_path)}"


def make_shop(handled: list[Any] | None = None) -> Stream:
    """Return an app of a handler that remembers and emits, and a plain one behind it in a thread."""
    stream = Stream(topic="orders", group="billing")

    @stream.subscribe("orders", ordering="key", name="total", retry=RetryPolicy(max_attempts=3))
    async def total(order: BaseEvent, ctx: Context) -> None:
        amount: float = order.amount  # type: ignore[attr-defined]
        if amount < 0:
            raise ValueError("a negative order")
        spent = await ctx.state.get("spent", 0.0) + amount
        await ctx.state.put("spent", spent)
        if spent > 100:
            ctx.emit({"customer": order.key, "spent": spent}, topic="vip", key=order.key)

    @stream.subscribe("vip", group="marketing", name="greet")
    def greet(event: BaseEvent) -> None:
        if handled is not None:
            handled.append(event.key)

    return stream


def make_counter(**options: Any) -> Stream:
    """Return an app that counts bids in windows of 10 s, and sums these counts in windows of a minute."""
    stream = Stream(topic="bids", group="counts")
    stream.window("bids", TumblingWindow(10_000), emit="final", to="tens", name="tens", **options)(Count())
    stream.window("tens", TumblingWindow(60_000), watermark_delay_ms=10**9, emit="final", to="minutes", name="minutes")(
        Sum("value")
    )
    return stream


def values(events: list[Any]) -> list[tuple[Any, int, Any]]:
    return [(event["key"], event["window_start_ms"] // 1000, event["value"]) for event in events]


async def test_what_was_sent_is_handled_when_send_returns(url: str | None) -> None:
    handled: list[Any] = []
    stream = make_shop(handled)
    async with StreamTester(stream, url) as tester:
        assert await tester.send("orders", {"amount": 99.0}, key="ada")
        assert await tester.outputs("vip") == []
        await tester.send("orders", {"amount": 2.5}, key="ada", headers={"from": "test"})
        assert await tester.outputs("vip") == [{"event_type": "GenericEvent", "customer": "ada", "spent": 101.5}]
        assert await tester.state("total", "ada", "spent") == 101.5
        assert handled == ["ada"]
        assert [record.headers for record in await tester.records("orders")] == [{}, {"from": "test"}]


async def test_a_failed_record_waits_for_the_clock_and_is_a_dead_letter_in_the_end(url: str | None) -> None:
    async with StreamTester(make_shop(), url, raises=False) as tester:
        await tester.send_many("orders", [{"amount": -1, "key": "bob"}, {"amount": 5, "key": "bob"}])
        waiting = await tester.pending()
        assert [(each.key, each.attempts, str(each.waiting)) for each in waiting] == [
            (b"bob", 1, "retry"),
            (b"bob", 0, "held back"),
        ]
        begun_ms = tester.now_ms
        await tester.advance(300)
        assert [each.attempts for each in await tester.pending()] == [2, 0]
        await tester.advance(600_000)
        assert tester.now_ms == begun_ms + 600_300
        assert await tester.pending() == []
        (letter,) = await tester.dead_letters("orders")
        assert (letter.error, letter.attempts, letter.record.key) == ("a negative order", 3, "bob")
        assert letter.dead_at_ms < begun_ms + 2_000  # each retry ran at its own time
        assert await tester.state("total", "bob", "spent") == 5


async def test_bytes_that_are_no_event_are_a_dead_letter(url: str | None) -> None:
    async with StreamTester(make_shop(), url, raises=False) as tester:
        await tester.send("orders", b"\xff no event", key="eve")
        (letter,) = await tester.dead_letters()
        assert letter.record.value == b"\xff no event"


async def test_windows_close_with_event_time_and_at_the_end_of_the_input(url: str | None) -> None:
    async with StreamTester(make_counter(), url) as tester:
        for at in (0, 3, 12, 69.5):
            await tester.send("bids", {}, key="a", timestamp=at)
        assert values(await tester.outputs("tens")) == [("a", 0, 2), ("a", 10, 1)]
        await tester.send("bids", {"note": "behind"}, key="a", timestamp=datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC))
        assert [event["note"] for event in await tester.late("bids")] == ["behind"]
        assert await tester.outputs("minutes") == []
        await tester.finish()
        assert values(await tester.outputs("tens")) == [("a", 0, 2), ("a", 10, 1), ("a", 60, 1)]
        assert values(await tester.outputs("minutes")) == [("a", 0, 3), ("a", 60, 1)]
        await tester.finish()
        assert len(await tester.outputs("minutes")) == 2


async def test_windows_of_a_silent_topic_close_when_the_clock_moves(url: str | None) -> None:
    async with StreamTester(make_counter(idle_timeout_ms=30_000), url, partitions={"bids": 2}) as tester:
        await tester.send("bids", {}, key="a", timestamp=1)
        await tester.advance(29_000)
        assert await tester.outputs("tens") == []
        await tester.advance(2_000)
        assert values(await tester.outputs("tens")) == [("a", 0, 1)]


async def test_windows_by_another_key_over_several_partitions_close_too(url: str | None) -> None:
    async with StreamTester(make_counter(key="kind"), url, partitions={"bids": 3}) as tester:
        for at in range(0, 24, 2):
            await tester.send("bids", {"kind": "ab"[at // 2 % 2]}, key=f"k{at}", timestamp=at)
        await tester.finish()
        assert sorted(values(await tester.outputs("minutes"))) == [("a", 0, 6), ("b", 0, 6)]
        assert await tester.late("bids") == []


async def test_a_crash_loses_what_was_not_committed_and_it_is_done_again(url: str | None) -> None:
    calls: list[str] = []
    may_pass = asyncio.Event()
    stream = Stream(topic="orders", group="billing")

    @stream.subscribe("orders", ordering="key", name="bill")
    async def bill(order: BaseEvent, ctx: Context) -> None:
        await ctx.state.put("billed", await ctx.state.get("billed", 0) + 1)
        ctx.emit({}, topic="bills", key=order.key)
        calls.append(str(order.key))
        if order.key == "ada":
            await may_pass.wait()

    stream.window("orders", TumblingWindow(10_000), emit="final", to="counts", name="counts")(Count())
    async with StreamTester(stream, url, settle_timeout_ms=60_000) as tester:
        await tester.send("orders", {}, key="bob", timestamp=1)
        sending = asyncio.create_task(tester.send("orders", {}, key="ada", timestamp=2))
        while "ada" not in calls:  # noqa: ASYNC110 (the app takes the turns that this gives)
            await asyncio.sleep(0)
        assert [record.key for record in await tester.records("bills")] == ["bob"]
        sending.cancel()
        may_pass.set()
        await tester.crash()
        assert calls == ["bob", "ada", "ada"]
        assert [record.key for record in await tester.records("bills")] == ["bob", "ada"]
        assert [await tester.state("bill", key, "billed") for key in ("ada", "bob")] == [1, 1]
        await tester.finish()
        assert values(await tester.outputs("counts")) == [("ada", 0, 1), ("bob", 0, 1)]


async def test_a_crash_between_window_records_changes_no_result(url: str | None) -> None:
    async with StreamTester(make_counter(), url) as tester:
        for at in range(0, 30, 4):
            await tester.send("bids", {}, key="a", timestamp=at)
            if at % 12 == 0:
                await tester.crash()
        await tester.finish()
        assert values(await tester.outputs("tens")) == [("a", 0, 3), ("a", 10, 2), ("a", 20, 3)]


@ON_MEMORY
async def test_windows_that_were_half_emitted_at_a_crash_go_on_without_a_new_record(
    kind: Kind, setting: Callable[[str, object], None]
) -> None:
    setting("PSPF_MAX_OPERATIONS", 10)
    results = 0

    def kill_at_the_35th(result: WindowResult) -> dict[str, Any]:
        nonlocal results
        results += 1
        if results == 35:
            stream.abandon()
        return result._asdict()

    stream = Stream(topic="bids", group="counts")
    stream.window("bids", TumblingWindow(10_000), emit="final", to="tens", name="tens", result=kill_at_the_35th)(
        Count()
    )
    work = LoadedApp("app", Path(), stream).make_plan().work
    clock = ManualClock()
    backend = MemoryBackend(clock=clock)

    async def send_and_finish() -> None:
        async with StreamTester(stream, backend, clock=clock) as tester:
            await tester.send_many("bids", [{"key": f"k{n}"} for n in range(100)], timestamp=1)
            await tester.finish()

    async with backend.broker:
        with pytest.raises(ConfigurationError, match="the app has ended"):
            await send_and_finish()
        # Others are told that there is more to come, though no record is left: a burst must not end here.
        assert await read_lag(backend.broker, work.cursors) == 0
        assert not await is_drained(backend.broker, work)
        clock.advance(60_000)
        async with StreamTester(stream, backend, clock=clock) as tester:
            assert len({event["key"] for event in await tester.outputs("tens")}) == 100
            assert len(await tester.outputs("tens")) == 100
        assert await is_drained(backend.broker, work)


@ON_MEMORY
async def test_an_event_without_a_time_gets_the_clocks(kind: Kind) -> None:
    class Bid(BaseEvent):
        price: int = 1

    async with StreamTester(make_counter(), clock=ManualClock(5_000)) as tester:
        await tester.send("bids", Bid(key="a"))
        await tester.send("bids", Bid(key="a", timestamp=datetime(1970, 1, 1, 0, 0, 8)))  # noqa: DTZ001 (naive is UTC)
        await tester.advance(7_000)
        await tester.send("bids", Bid(key="a"))
        assert values(await tester.outputs("tens")) == [("a", 0, 2)]


@ON_MEMORY
async def test_a_stream_is_as_it_was_after_its_test(kind: Kind, tmp_path: Path) -> None:
    backend = MemoryBackend(stream_key="orders", group_name="billing")
    stream = make_shop()
    stream.bind(backend.broker)
    clock = stream.processor.clock
    for _ in range(2):
        async with StreamTester(stream) as tester:
            assert tester.broker is not backend.broker
            await tester.send("orders", {"amount": 1}, key="ada")
            assert await tester.state("total", "ada", "spent") == 1
    assert stream.broker is backend.broker
    assert stream.processor.clock is clock


@ON_MEMORY
async def test_what_hangs_is_named_instead_of_waited_for(kind: Kind) -> None:
    stream = Stream(topic="orders", group="billing")

    @stream.subscribe("orders", name="wait")
    async def wait(order: BaseEvent) -> None:
        await asyncio.Event().wait()

    begun = time.monotonic()
    with pytest.raises(NotSettled, match=r"orders.*pending.*wait has 1 records of orders in hand"):
        async with StreamTester(stream, settle_timeout_ms=100) as tester:
            await tester.send("orders", {})
    assert time.monotonic() - begun < 60


@ON_MEMORY
async def test_an_error_that_ends_the_app_is_the_tests(kind: Kind) -> None:
    stream = Stream(topic="bids", group="counts")
    stream.window("bids", TumblingWindow(10_000), name="w")(Count())
    backend = MemoryBackend()
    clock = ManualClock()
    async with StreamTester(stream, backend, clock=clock) as tester:
        await tester.send("bids", {}, timestamp=1)
    changed = Stream(topic="bids", group="counts")
    changed.window("bids", TumblingWindow(20_000), name="w")(Count())
    with pytest.raises(ConfigurationError, match="give the new ones another name"):
        async with StreamTester(changed, backend, clock=clock) as tester:
            await tester.send("bids", {}, timestamp=1)


@ON_MEMORY
@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda tester: tester.advance(1), "goes by one of its own"),
        (lambda tester: tester.crash(), "goes by one of its own"),
    ],
    ids=["advance", "crash"],
)
async def test_a_broker_with_a_clock_of_its_own_is_not_moved(
    kind: Kind, act: Callable[[StreamTester], Any], what: str
) -> None:
    async with StreamTester(make_shop(), MemoryBackend()) as tester:
        with pytest.raises(ConfigurationError, match=what):
            await act(tester)
        await tester.send("orders", {"amount": 1}, key="ada")


def blocks(path: Path) -> list[str]:
    """Return the Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@ON_MEMORY
@pytest.mark.parametrize("page", ["README.md", "docs/testing.md"])
async def test_the_tests_on_the_pages_pass(kind: Kind, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)
    (source,) = (block for block in blocks(ROOT / "README.md") if block.startswith("# shop.py"))
    exec(source, vars(shop))  # noqa: S102 (our own page)
    shown = [block for block in blocks(ROOT / page) if "async def test_" in block]
    names: dict[str, Any] = {}
    for block in shown:
        exec(block, names)  # noqa: S102 (our own page)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        await test()


@ON_MEMORY
async def test_what_can_not_be_tested_is_refused(kind: Kind) -> None:
    with pytest.raises(ConfigurationError, match="no handlers"):
        async with StreamTester(Stream(topic="orders", group="billing")):
            pass
    tester = StreamTester(make_shop())
    with pytest.raises(ConfigurationError, match="async with"):
        await tester.send("orders", {})
    async with tester:
        with pytest.raises(EventRejected):
            await tester.send("orders", object())


async def test_a_handler_of_several_topics_is_tested_as_any_other(url: str | None) -> None:
    stream = Stream(topic="orders", group="billing")

    @stream.subscribe(topics=["orders", "payments"], ordering="key", name="match")
    async def match(event: BaseEvent, ctx: Context) -> None:
        seen = [*await ctx.state.get("seen", []), ctx.record.topic]
        await ctx.state.put("seen", seen)
        ctx.emit({"seen": len(seen)}, topic="matches")

    async with StreamTester(stream, url) as tester:
        await tester.send("payments", {}, key="ada")
        await tester.send("orders", {}, key="ada")
        await tester.crash()
        await tester.send("payments", {}, key="ada")
        assert [each["seen"] for each in await tester.outputs("matches")] == [1, 2, 3]
        assert await tester.state(match, "ada", "seen") == ["payments", "orders", "payments"]


async def test_what_waits_for_a_slower_topic_is_handled_when_the_time_has_passed_or_it_has_come(
    url: str | None,
) -> None:
    stream = Stream(topic="orders", group="billing")

    @stream.subscribe(topics=["prices", "orders"], ordering="key", name="price", idle_timeout_ms=5_000)
    async def price(event: BaseEvent, ctx: Context) -> None:
        ctx.emit({"topic": ctx.record.topic, "at": event.timestamp.timestamp() % 1_000}, topic="seen")

    async def seen(tester: StreamTester) -> list[tuple[str, float]]:
        return [(each["topic"], each["at"]) for each in await tester.outputs("seen")]

    async with StreamTester(stream, url) as tester:
        await tester.send("orders", {}, key="ada", timestamp=1_700_000_010)
        assert await seen(tester) == []
        await tester.send("prices", {}, key="ada", timestamp=1_700_000_005)
        assert await seen(tester) == [("prices", 5)]
        await tester.advance(5_001)
        assert await seen(tester) == [("prices", 5), ("orders", 10)]

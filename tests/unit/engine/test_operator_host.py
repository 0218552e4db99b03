"""The host of an operator, without a broker: what is due, when, and what goes into the commit."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from pspf import Stream
from pspf.clock import ManualClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.memory import MemoryBroker
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.choice import make_operator
from pspf.engine.cursor_scope import CursorHandlerScope
from pspf.engine.effect_budget import EffectLimits
from pspf.engine.key_order import KeyOrder
from pspf.engine.operators.context import OperatorScope
from pspf.engine.operators.host import OperatorHost
from pspf.engine.operators.registry import find_kind
from pspf.errors import ConfigurationError, StateUnreadable
from pspf.events.decoding import make_decoder
from pspf.records import Batch, Commit, Cursor, EntryPlace, Record
from pspf.subscription import Subscription
from pspf.windowing.spans import NEVER
from tests.support.debounce import Debounce
from tests.support.debouncing import GROUP, TOPIC, add_debounce

QUIET_MS = 1_000


class Stored:
    """What commits have left of a cursor, as a consumer reads it."""

    cursor = Cursor(TOPIC, GROUP, "debounce", 0)

    def __init__(self) -> None:
        self.progress: bytes | None = None
        self.entries: dict[EntryPlace, bytes] = {}

    async def read_progress(self) -> bytes | None:
        return self.progress

    async def scan_entries(
        self, namespace: int, *, after: bytes | None, max_entries: int
    ) -> Sequence[tuple[bytes, bytes]]:
        found = sorted((key, value) for (at, key), value in self.entries.items() if at == namespace)
        return [(key, value) for key, value in found if after is None or key > after][:max_entries]

    def write(self, commit: Commit) -> None:
        assert commit.progress is not None
        self.progress = commit.progress.stored
        for slot, states in commit.changes.entries.items():
            for key, state in states.items():
                self.entries.pop((slot, key), None)
                if state is not None:
                    self.entries[slot, key] = state


class Bench:
    """One operator on one cursor, and the commits that it makes."""

    def __init__(self, stored: Stored, clock: ManualClock, *, limits: EffectLimits | None = None) -> None:
        stream = Stream(StreamingBackend(MemoryBroker(), TOPIC, GROUP))
        add_debounce(stream, quiet_ms=QUIET_MS)
        self.subscription: Subscription = stream.subscriptions[0]
        self.stored = stored
        self.clock = clock
        self.wakes = 0
        self.held = KeyOrder((), 0)
        self.limits = limits or EffectLimits()
        around = CursorHandlerScope("", {}, 100, 10_000, None, "", set(), stream.broker, None, lambda _, each: each)
        scope = OperatorScope(
            stored,  # type: ignore[arg-type]  # as much of a consumer as is asked for here
            self.held,
            _ask,
            clock,
            self.limits,
            1_000,
            self.wake,
            _read_nothing,
        )
        made = make_operator(self.subscription, make_decoder(dict), around, scope)
        assert isinstance(made, OperatorHost)
        self.host = made

    def wake(self) -> None:
        self.wakes += 1

    async def run(self, *keys: str) -> list[tuple[str, int, int]]:
        """Run a batch of records, one of each key; return (key, value, source) of what goes out with its commit."""
        begin = self.held.position
        events = [orjson.dumps({"n": begin + n, "key": key}) for n, key in enumerate(keys)]
        records = [
            Record(TOPIC, 0, begin + n, key.encode(), event, None, self.clock.now_ms())
            for n, (key, event) in enumerate(zip(keys, events, strict=True))
        ]
        run = BatchRun(
            self.subscription,
            Batch(records, begin + len(records)),
            held=self.held,
            state=None,
            clock=self.clock,
            limits=self.limits,
        )
        taken = await self.host.run(records, run)
        commit = run.as_commit(records[:taken], records[taken:], whole=False)
        self.stored.write(commit)
        results = [(orjson.loads(emit.record.value), emit.source) for emit in commit.emits]
        return [(result["key"], result["value"], source) for result, source in results]


async def _ask(_doing: str, act: Any) -> Any:
    return await act()


async def _read_nothing() -> Mapping[int, int]:
    return {}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def stored() -> Stored:
    return Stored()


async def test_what_is_due_by_the_clock_is_done_before_the_records_of_the_batch(
    stored: Stored, clock: ManualClock
) -> None:
    bench = Bench(stored, clock)
    assert bench.wakes == 1, "it may have something to do that the owner before has left"
    assert await bench.run("a", "b") == []
    assert bench.host.due_ms == clock.now_ms() + QUIET_MS
    clock.advance(QUIET_MS)
    assert bench.host.has_work
    assert await bench.run("b", "c") == [("a", 0, 2), ("b", 1, 2)]
    assert not bench.host.has_work
    clock.advance(QUIET_MS)
    assert await bench.run() == [("b", 2, 4), ("c", 3, 4)]
    assert (bench.host.due_ms, stored.entries) == (NEVER, {})


async def test_what_has_no_room_is_done_by_the_next_batch(stored: Stored, clock: ManualClock) -> None:
    bench = Bench(stored, clock, limits=EffectLimits(operations=2))
    for key in "abc":
        await bench.run(key)
    clock.advance(QUIET_MS)
    woken = bench.wakes
    assert await bench.run("d") == [("a", 0, 3), ("b", 1, 3)]
    assert bench.host.has_work
    assert bench.wakes > woken
    assert bench.held.position == 3, "no record is taken before what is due"
    assert await bench.run("d") == [("c", 2, 3)]


async def test_another_owner_goes_on_with_what_was_committed(stored: Stored, clock: ManualClock) -> None:
    await Bench(stored, clock).run("a", "b")
    clock.advance(QUIET_MS)
    later = Bench(stored, clock)
    assert later.host.due_ms == NEVER, "nothing is known before it was read"
    assert later.host.has_work
    assert await later.run() == [("a", 0, 0), ("b", 1, 0)]


async def test_what_another_operator_has_stored_is_refused(stored: Stored, clock: ManualClock) -> None:
    stored.progress = b'{"version":1,"operator":"other","watermark_ms":0}'
    with pytest.raises(StateUnreadable, match='operator is "other", and "debounce" in the code'):
        await Bench(stored, clock).run("a")


def test_an_operator_that_is_not_registered_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no operator 'unheard-of' is registered"):
        find_kind(Debounce(QUIET_MS, kind="unheard-of"))

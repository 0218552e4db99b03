"""Operators of windows without a broker: what they fold, when they close, and what another owner goes on with."""

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
from pspf.events.decoding import make_decoder
from pspf.records import Batch, Commit, EntryPlace, Record
from pspf.windowing.aggregations import Sum
from pspf.windowing.definitions import SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.unit.engine.test_operator_host import Stored, _ask, _read_nothing

WINDOWS = [TumblingWindow(10_000), SlidingWindow(10_000, 10_000), SessionWindow(5_000)]
Event = tuple[str, int, int]
"""Key, time in seconds, value."""


class StoredWindows(Stored):
    async def list_namespaces(self) -> Sequence[int]:
        return sorted({namespace for namespace, _ in self.entries})

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        return {place: self.entries[place] for place in places if place in self.entries}

    def write(self, commit: Commit) -> None:
        for namespace in commit.changes.dropped:
            self.entries = {place: value for place, value in self.entries.items() if place[0] != namespace}
        super().write(commit)


class Bench:
    """A windowed sum of `v` on one cursor."""

    def __init__(self, window: Window, stored: StoredWindows, **options: Any) -> None:
        stream = Stream(StreamingBackend(MemoryBroker(), "ticks", "g"))
        stream.window("ticks", window, emit="final", to="sums", name="sum", **options)(Sum("v"))
        (self.subscription,) = stream.subscriptions
        self.stored = stored
        self.clock = ManualClock()
        self.held = KeyOrder((), 0)
        around = CursorHandlerScope("", {}, 100, 10_000, None, "", set(), stream.broker, None, lambda _, each: each)
        scope = OperatorScope(
            stored,  # type: ignore[arg-type]  # as much of a consumer as is asked for here
            self.held,
            _ask,
            self.clock,
            EffectLimits(),
            1_000,
            lambda: None,
            _read_nothing,
        )
        made = make_operator(self.subscription, make_decoder(dict), around, scope)
        assert isinstance(made, OperatorHost)
        self.host = made

    async def run(self, *events: Event) -> Commit:
        """Run a batch, store its commit, and return it."""
        begin = self.held.position
        records = [
            Record("ticks", 0, begin + n, key.encode(), orjson.dumps({"v": v, "key": key}), None, at_s * 1_000)
            for n, (key, at_s, v) in enumerate(events)
        ]
        batch = Batch(records, begin + len(records))
        run = BatchRun(self.subscription, batch, held=self.held, state=None, clock=self.clock, limits=EffectLimits())
        taken = await self.host.run(records, run)
        commit = run.as_commit(records[:taken], records[taken:], whole=False)
        self.stored.write(commit)
        return commit

    async def sums(self, *events: Event) -> list[tuple[str, int]]:
        """Run a batch; return (key, sum) of the windows that it has closed."""
        results = [orjson.loads(emit.record.value) for emit in (await self.run(*events)).emits]
        return [(result["key"], result["value"]) for result in results]


@pytest.fixture
def stored() -> StoredWindows:
    return StoredWindows()


async def test_a_tumbling_window_closes_before_the_record_that_moves_the_watermark_behind_it(
    stored: StoredWindows,
) -> None:
    bench = Bench(TumblingWindow(10_000), stored)
    assert await bench.sums(("a", 1, 1), ("b", 2, 5), ("a", 9, 2)) == []
    assert await bench.sums(("a", 10, 7)) == [("a", 3), ("b", 5)]
    assert await bench.sums(("a", 20, 0)) == [("a", 7)]


async def test_a_sliding_window_has_a_record_in_each_of_its_windows(stored: StoredWindows) -> None:
    bench = Bench(SlidingWindow(10_000, 5_000), stored)
    await bench.run(("a", 6, 1), ("a", 11, 2))
    assert await bench.sums(("a", 30, 0)) == [("a", 3), ("a", 2)]


async def test_a_session_ends_with_its_gap_and_a_record_between_joins_two(stored: StoredWindows) -> None:
    bench = Bench(SessionWindow(3_000), stored, watermark_delay_ms=5_000)
    await bench.run(("a", 1, 1), ("a", 5, 2), ("b", 1, 7))
    await bench.run(("a", 3, 4))
    assert await bench.sums(("a", 30, 0)) == [("b", 7), ("a", 7)]


async def test_a_record_whose_windows_are_closed_goes_to_the_late_topic(stored: StoredWindows) -> None:
    bench = Bench(TumblingWindow(10_000), stored)
    await bench.run(("a", 1, 1), ("a", 15, 2))
    commit = await bench.run(("a", 2, 9), ("a", 16, 1))
    assert [record.raw_key for record in commit.late] == [b"a"]
    assert (list(commit.emits), list(commit.dead)) == ([], [])
    assert await bench.sums(("a", 30, 0)) == [("a", 3)]


@pytest.mark.parametrize("window", WINDOWS, ids=["tumbling", "sliding", "session"])
async def test_another_owner_goes_on_with_what_was_committed(window: Window, stored: StoredWindows) -> None:
    await Bench(window, stored).run(("a", 1, 1), ("b", 2, 5))
    assert stored.entries
    later = Bench(window, stored)
    later.held.position = 2
    await later.run(("a", 3, 2))
    assert sorted(await later.sums(("a", 40, 0))) == [("a", 3), ("b", 5)]
    await later.sums(("a", 80, 0))
    assert len(stored.entries) == 1, "a closed window is forgotten"

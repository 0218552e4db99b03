"""What a handler's context takes, counts and refuses."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pspf import BaseEvent, Context
from pspf.connectors.contract.limits import Limits
from pspf.context import Call, StatePage, StateSource, StepSource
from pspf.context.timers import TimerClock
from pspf.errors import ConfigurationError, ContextClosed, EventRejected, StateUnavailable, TooManyEffects
from pspf.events.topic import DeclaredTopic
from pspf.records import NewRecord, Record


class Values:
    """State that is all there."""

    def __init__(self, values: dict[tuple[bytes, str], bytes]) -> None:
        self.values = values
        self.loads = 0

    def get(self, key: bytes, name: str) -> bytes | None:
        return self.values.get((key, name))

    def is_loaded(self, key: bytes, name: str) -> bool:
        return self.loads > 0

    async def load(self, key: bytes, *names: str) -> None:
        self.loads += 1

    async def scan(self, key: bytes, prefix: str, after: str | None, most: int) -> StatePage:
        raise NotImplementedError

    def now_ms(self) -> int:
        return 0

    def forget(self, key: bytes, name: str) -> None:
        del self.values[key, name]

    def expect(self, due_ms: int) -> None:
        pass


@dataclass
class Around:
    """The surroundings of a context."""

    state: StateSource | None = None
    default_topic: str = "events"
    topics: Mapping[str, DeclaredTopic] = field(default_factory=dict)
    max_operations: int = 5
    max_effect_bytes: int = 1_000
    no_state: str = "no state here"
    steps: StepSource | None = None
    no_steps: str = "no steps here"
    handler: str = "h"
    timers: TimerClock | None = None
    no_timers: str = "no timers here"
    warned: set[str] = field(default_factory=set)
    limits: Limits = field(default_factory=lambda: Limits(max_record_bytes=500))
    spans: Any = None

    def check(self, record: NewRecord) -> None:
        self.limits.check(record)

    def check_all(self, records: Sequence[NewRecord]) -> None:
        self.limits.check_all(records)

    def inject(self, topic: str, headers: dict[str, str] | None) -> dict[str, str] | None:
        return headers


def record(key: bytes | None = b"k", attempts: int = 0) -> Record:
    return Record("t", 0, 7, key, b"{}", None, 0, attempts)


def make(state: StateSource | None = None, key: bytes | None = b"k") -> Context:
    return Context(record(key), Around(state))


def test_an_emit_is_kept_and_goes_to_the_default_topic_unless_another_is_named() -> None:
    ctx = make()
    ctx.emit({"event_type": "a"})
    ctx.emit(BaseEvent(key="own"), topic="other", headers={"h": "1"})
    ctx.emit({"event_type": "a"}, key="given")
    assert [(topic, emitted.raw_key, emitted.event_id) for topic, emitted in ctx.emits] == [
        ("events", None, None),
        ("other", b"own", None),
        ("events", b"given", None),
    ]
    assert ctx.emits[1][1].raw_headers == b'{"h":"1"}'
    assert ctx.size[0] == 3


@pytest.mark.parametrize(
    ("emit", "error"),
    [
        (lambda ctx: ctx.emit("text"), EventRejected),
        (lambda ctx: ctx.emit({"x": "y" * 600}), EventRejected),
        (lambda ctx: ctx.emit({}, topic="no topic"), ConfigurationError),
        (lambda ctx: ctx.emit({}, topic="t-dlq"), ConfigurationError),
        (lambda ctx: ctx.emit({}, headers={"h": 1}), EventRejected),
    ],
)
def test_what_can_not_be_emitted_is_refused_at_once(emit: Callable[[Context], None], error: type[Exception]) -> None:
    ctx = make()
    with pytest.raises(error):
        emit(ctx)
    assert ctx.emits == []


def test_a_call_may_do_no_more_than_a_commit_holds() -> None:
    ctx = make()
    for _ in range(5):
        ctx.emit({})
    with pytest.raises(TooManyEffects, match="6 effects"):
        ctx.emit({})
    ctx = make()
    for _ in range(2):
        ctx.emit({"x": "y" * 400})
    with pytest.raises(TooManyEffects):
        ctx.emit({"x": "y" * 400})


async def test_state_is_seen_as_the_call_has_left_it() -> None:
    values = Values({(b"k", "n"): b"1", (b"other", "n"): b"2"})
    ctx = make(values)
    assert await ctx.state.get("n") == 1
    await ctx.state.put("n", [3])
    assert await ctx.state.get("n") == [3]
    await ctx.state.delete("n")
    assert await ctx.state.get("n", "default") == "default"
    assert await ctx.state.read("other", "n") == 2
    assert ctx.changes == {"n": None}
    assert values.values[b"k", "n"] == b"1"


async def test_a_closed_context_refuses_everything() -> None:
    ctx = make(Values({}))
    state = ctx.state
    ctx.close()
    uses: list[Callable[[], Any]] = [
        lambda: state.get("n"),
        lambda: state.put("n", 1),
        lambda: state.delete("n"),
        lambda: state.read("other", "n"),
    ]
    for use in uses:
        with pytest.raises(ContextClosed):
            await use()
    with pytest.raises(ContextClosed):
        ctx.emit({})
    assert ctx.changes == {}


async def test_a_call_that_ends_while_it_waits_for_state_gets_none() -> None:
    ctx = make()

    class Late(Values):
        async def load(self, key: bytes, *names: str) -> None:
            ctx.close()

    ctx = make(Late({(b"k", "n"): b"1"}))
    with pytest.raises(ContextClosed):
        await ctx.state.get("n")


def test_state_without_a_place_or_a_key_says_why() -> None:
    with pytest.raises(StateUnavailable, match="no state here"):
        make().state  # noqa: B018
    with pytest.raises(StateUnavailable, match="t 7 has no key"):
        make(Values({}), key=None).state  # noqa: B018


@pytest.mark.parametrize("put", [("n", object()), ("n", float("inf")), (7, 1), ("\udfff", 1)])
async def test_what_can_not_be_remembered_is_refused_at_once(put: tuple[Any, Any]) -> None:
    ctx = make(Values({}))
    with pytest.raises(EventRejected):
        await ctx.state.put(*put)
    assert ctx.changes == {}


def test_the_attempt_counts_from_one() -> None:
    assert Context(record(attempts=2), Around()).attempt == 3
    assert make().key == "k"


def test_ids_for_emits_past_the_commit_are_the_same_when_a_record_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    warned: set[str] = set()

    def ids(others: str = "") -> list[str]:
        call = Call("billing", warned)
        call.others = others
        found = []
        for offset in (7, 8):
            call.record = record()._replace(offset=offset)
            found += [call.next_id(), call.next_id()]
        return found

    assert ids() == ["t/7/billing/1", "t/7/billing/2", "t/8/billing/1", "t/8/billing/2"]
    assert ids() == ids()
    assert not set(ids("+3.ab")) & set(ids())
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]

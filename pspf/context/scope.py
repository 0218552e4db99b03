"""The scope of a handler: what the contexts of its calls share, and where their state comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pspf.context.timers import TimerClock
from pspf.events.topic import DeclaredTopic
from pspf.records import NewRecord

if TYPE_CHECKING:
    from pspf.context.steps import StepSource
    from pspf.observability.tracing import HandlerSpans


@dataclass(slots=True)
class StatePage:
    """Stored values of a key whose names begin alike, in order of name."""

    values: dict[str, bytes | None]
    """By name; None where the batch has deleted it."""
    last: str | None
    """The last name that this page tells of; None: it tells of all behind the page before."""
    after: str | None
    """The last name of the page before."""
    most: int
    """How many values were asked for."""
    size_bytes: int
    names: Sequence[str] = ()
    """The names to give, with those that the call has changed."""

    def covers(self, name: str) -> bool:
        """Return whether this page tells of a name."""
        return (self.after is None or name > self.after) and (self.last is None or name <= self.last)


class StateSource(Protocol):
    """Where a context's state comes from: the batch's view of the cursor's state."""

    def get(self, key: bytes, name: str) -> bytes | None:
        """Return a value that is loaded, as stored and as the batch has left it so far."""
        ...

    def is_loaded(self, key: bytes, name: str) -> bool: ...

    async def load(self, key: bytes, *names: str) -> None:
        """Read values, and with them what else the batch may ask for."""
        ...

    async def scan(self, key: bytes, prefix: str, after: str | None, most: int) -> StatePage:
        """Return the values of names that begin with `prefix`, behind `after`: about `most`, as stored.

        Raises:
            NotAvailable: Values can't be listed here.
        """
        ...

    def now_ms(self) -> int:
        """Return the wall-clock time, which decides what has expired."""
        ...

    def forget(self, key: bytes, name: str) -> None:
        """Forget a value that was seen as expired, with the batch's commit: a clock may step back."""
        ...

    def expect(self, due_ms: int) -> None:
        """Note that the call has put a value that expires."""
        ...


class HandlerScope(Protocol):
    """What all contexts of a subscription share."""

    default_topic: str
    topics: Mapping[str, DeclaredTopic]
    """The topics that the app declares, by name."""
    max_operations: int
    max_effect_bytes: int
    state: StateSource | None
    """None where the subscription has no state; `no_state` says why."""
    no_state: str
    steps: "StepSource | None"
    """None where the handler can't have steps; `no_steps` says why."""
    no_steps: str
    handler: str
    timers: TimerClock | None
    """The clock of its timers; None where the subscription has none; `no_timers` says why."""
    no_timers: str
    warned: set[str]
    """The handlers that were warned that they emit past their commit."""

    def check(self, record: NewRecord) -> None:
        """Raise EventRejected where a record is too large to be stored."""
        ...

    def check_all(self, records: Sequence[NewRecord]) -> None:
        """Raise EventRejected where one of some records is."""
        ...

    spans: "HandlerSpans | None"
    """The tracer of the handler's calls; None without a tracer provider."""

    def inject(self, topic: str, headers: dict[str, str] | None) -> dict[str, str] | None:
        """Return the headers of an event that is emitted to a topic, with the trace context where there is one."""
        ...

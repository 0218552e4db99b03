"""The scope of a handler: what the contexts of its calls share, and where their state comes from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pspf.records import NewRecord

if TYPE_CHECKING:
    from pspf.observability.tracing import HandlerSpans


class StateSource(Protocol):
    """Where a context's state comes from: the batch's view of the cursor's state."""

    def get(self, key: bytes, name: str) -> bytes | None:
        """Return a value that is loaded, as the batch has left it so far."""
        ...

    def is_loaded(self, key: bytes, name: str) -> bool: ...

    async def load(self, key: bytes, name: str) -> None:
        """Read a value, and with it what else the batch may ask for."""
        ...


class HandlerScope(Protocol):
    """What all contexts of a subscription share."""

    default_topic: str
    max_operations: int
    max_effect_bytes: int
    state: StateSource | None
    """None where the subscription has no state; `no_state` says why."""
    no_state: str
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

"""The definition of an operator: its configuration, as far as other parts need to know it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any


class OperatorDefinition(ABC):
    """A value. The registry of operators says by `kind` what runs it; times are milliseconds."""

    __slots__ = ()

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name under which the operator is registered."""

    def __str__(self) -> str:
        return self.kind

    @property
    def key(self) -> str | Callable[[Any], Any] | None:
        """The grouping key: a field's name or a function of the event; None: the event's key."""
        return None

    @property
    def tells_time(self) -> bool:
        """Whether what is behind a shuffle goes by the event time of all its sources."""
        return True

    @property
    def to(self) -> str | None:
        """The topic of the results."""
        return None

    @property
    def calls_handler(self) -> bool:
        """Whether records go through the handler's function."""
        return False

    @property
    def watermark_delay_ms(self) -> int:
        """How long the watermark stays behind the latest event time."""
        return 0

    @property
    def idle_timeout_ms(self) -> int | None:
        """After how long without a new record all that is open is due; None: never."""
        return None

    @property
    def max_future_ms(self) -> int | None:
        """How far ahead of the clock an event time may be; None: as far as it likes."""
        return None

    @property
    def functions(self) -> Mapping[str, Any]:
        """The app's functions by the name of their parameter; none of them may be async."""
        return {}

    def as_json(self) -> dict[str, Any]:
        """Return what `pspf show --json` has for it."""
        return {"window": str(self), "key": self.key if isinstance(self.key, str) else None, "to": self.to}

    def check(self, where: str) -> None:  # noqa: B027 (most definitions check themselves when they are made)
        """Raise ConfigurationError for what can't be, or not together; `where` names the handler."""

"""The handler call that runs at the moment: ids for emits past its commit."""

import contextvars
import decimal
from contextvars import ContextVar

from pspf.loggers import get_logger
from pspf.records import Record

logger = get_logger(__name__)


class Call:
    """The handler call that runs at the moment, for emits past its context.

    `others` tells calls of one record apart that handle different records with it. `warned` are
    the handlers warned to use `ctx.emit`. `clean` is the context that calls begin in, with its decimal context,
    as it was before any handler could change that.
    """

    __slots__ = ("_calls", "_last", "_warned", "clean", "decimals", "handler", "others", "record")

    def __init__(self, handler: str, warned: set[str]) -> None:
        self.clean: contextvars.Context
        self.decimals: decimal.Context | None = None
        self.handler = handler
        self.record: Record | None = None
        self.others = ""
        self._last: Record | None = None
        self._calls = 0
        self._warned = warned

    def next_id(self) -> str:
        """Return an event_id for an immediate emit, the same when the record is handled again."""
        if self.handler not in self._warned:
            self._warned.add(self.handler)
            logger.warning(
                "%s emits past its commit: use ctx.emit to be exactly once",
                self.handler,
                extra={"handler": self.handler},
            )
        if self.record is not self._last:
            self._last, self._calls = self.record, 0
        self._calls += 1
        record = self.record
        place = "?" if record is None else f"{record.topic}/{record.id}{self.others}"
        return f"{place}/{self.handler}/{self._calls}"


current_call: ContextVar[Call | None] = ContextVar("pspf_call", default=None)
"""Set once per loop, not per event; its `record` moves on."""

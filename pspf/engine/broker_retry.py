"""Retries of calls while the broker is unavailable."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pspf.backoff import Backoff, Outage
from pspf.engine.failure_log import fields_of
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger
from pspf.records import Cursor

logger = get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class BrokerRetry:
    """Does things with the broker for one cursor, and waits for it."""

    cursor: Cursor
    is_abandoned: Callable[[], bool]
    """Whether this is as in a killed process: its handlers get nothing done any more."""
    outage: Outage = field(default_factory=Outage)
    """What all cursors of a process share: they fail together."""
    is_failing: bool = False
    """Whether the last try failed."""

    async def __call__(self, doing: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do something, and again while the broker is not there; return what it gives."""
        backoff: Backoff | None = None
        is_told = False
        while not self.is_abandoned():
            try:
                done = await act()
            except BackendUnavailable as error:
                self.is_failing = True
                if self.is_abandoned():
                    break
                backoff = backoff or Backoff()
                if not is_told and self.outage.may_say():
                    is_told = True
                    fields = fields_of(self.cursor)
                    logger.warning("%s: can't %s, will try again: %s", self.cursor, doing, error, extra=fields)
                await self.outage.wait(backoff.next_ms())
            else:
                self.is_failing = False
                if backoff is not None:
                    self.outage.worked()
                if is_told:
                    logger.info(
                        "%s: the broker is back, can %s again", self.cursor, doing, extra=fields_of(self.cursor)
                    )
                return done
        raise asyncio.CancelledError

"""Stored timers of a cursor: what is read of them, and what a batch's commit writes."""

from collections.abc import Sequence
from typing import Final

import orjson

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.entries import Entries
from pspf.engine.timers.watermark import Watermark
from pspf.records import OperatorProgress
from pspf.windowing.spans import BEGINNING
from pspf.windowing.timers.progress import describe, read_progress
from pspf.windowing.timers.rows import EVENT, due_of
from pspf.windowing.timers.table import TimerTable

_PAGE: Final = 1_000


class StoredTimers:
    """The timers of one cursor as the last commit left them, and `table`, the first of them."""

    def __init__(self, entries: Entries, handler: str) -> None:
        self.table = TimerTable()
        self.is_open = False
        self.is_finished = False
        """Whether all that waited for the watermark has fired as at the end of the input, and no record has come."""
        self._entries = entries
        self._handler = handler
        self._last: bytes | None = None

    async def open(self, watermark: Watermark) -> None:
        """Take over what the last commit stored.

        Raises:
            StateUnreadable: It is damaged, or something else than timers.
        """
        stored = await self._entries.read_progress()
        if stored is not None:
            progress = read_progress(stored, self._handler)
            watermark.advance(progress.watermark_ms)
            self.table.retrying = progress.retrying
            self.is_finished = progress.is_finished
        self._last = stored
        self.is_open = True

    async def extend(self) -> None:
        """Read more of what is due first, where there is more than is in memory; before the batch changes any."""
        table = self.table
        for queue in table.queues.values():
            while queue.is_short and table.can_extend:
                page = await self._entries.scan_entries(queue.namespace, after=queue.limit, max_entries=_PAGE)
                queue.extend([index for index, _ in page], is_last=len(page) < _PAGE)

    async def read(self, places: Sequence[bytes]) -> None:
        """Read the rows of timers."""
        wanted = self.table.unread(places)
        if wanted:
            self.table.learn(wanted, await self._entries.read_entries(wanted))

    async def find_last_ms(self, before_ms: int) -> int:
        """Return the time at which the last timer is due that waits for the watermark; `before_ms` where none does."""
        after: bytes | None = None
        while True:
            page = await self._entries.scan_entries(EVENT, after=after, max_entries=_PAGE)
            after = page[-1][0] if page else after
            if len(page) < _PAGE:
                return before_ms if after is None else due_of(after)

    async def store(self, run: BatchRun, watermark_ms: int, *, is_due: bool) -> None:
        """Put into a batch's commit what it has changed."""
        table = self.table
        wanted = table.unread_changes()
        if wanted:
            table.learn(wanted, await self._entries.read_entries(wanted))
        changes = table.take_changes()
        progress = orjson.dumps(
            describe(
                watermark_ms,
                retrying=table.retrying,
                has_more=is_due or table.retrying > 0,
                is_finished=self.is_finished,
            )
        )
        if changes or progress != self._last:
            self._last = progress
            run.changes = changes
            run.progress = OperatorProgress(None if watermark_ms == BEGINNING else watermark_ms, progress)

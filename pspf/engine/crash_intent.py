"""Crash intent of a suspect batch: which records are about to run, and whether others run beside them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from pspf.connectors.contract.cursors import Consumer
from pspf.engine.broker_retry import BrokerRetry
from pspf.errors import CommitFenced, CommitStale
from pspf.records import Record


class Intent:
    """The note of one cursor's suspect batch, from before it runs until its commit is due."""

    def __init__(self, consumer: Consumer, insist: BrokerRetry) -> None:
        self.is_alone = True
        """Whether nothing else runs in this process, or is not known to."""
        self._consumer = consumer
        self._insist = insist
        self._offsets: Sequence[int] = ()
        self._lock = asyncio.Lock()
        """Held while a note is written: none may come behind the commit."""

    async def note(self, records: Sequence[Record]) -> None:
        """Note that these are about to run: should the process end, one alone is charged."""
        offsets = [record.offset for record in records]
        async with self._lock:
            await self._insist(
                "note what is about to run", lambda: self._consumer.intend(offsets, is_alone=self.is_alone)
            )
            self._offsets = offsets

    async def note_others(self) -> None:
        """Note that others run beside them from now on: a crash may be theirs, and is charged to no record."""
        async with self._lock:
            self.is_alone = False
            offsets = self._offsets
            if offsets:
                with suppress(CommitFenced, CommitStale):  # their commit tells
                    await self._insist(
                        "note that others run, too", lambda: self._consumer.intend(offsets, is_alone=False)
                    )

    async def settle(self) -> None:
        """Forget them: their commit is next."""
        async with self._lock:
            self._offsets = ()

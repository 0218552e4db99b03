"""A consumer that does what a test says, for the parts of the loop that need no broker."""

import asyncio
from collections.abc import Sequence

from pspf.connectors.contract.values import Lease
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import Executor
from pspf.engine.idleness import IdleTracker
from pspf.records import Batch, Commit, Cursor, Record
from pspf.windowing.spans import NEVER

CURSOR = Cursor("orders", "billing", None, 0)


def records(*offsets: int, key: bytes | None = b"a") -> list[Record]:
    return [Record("orders", 0, offset, key, b"{}", None, 0) for offset in offsets]


class ScriptedConsumer:
    """Gives out `batches`, then waits; raises `failures` first, at any call. Commits wait while `is_held`."""

    def __init__(self, *batches: Batch, is_remote: bool = False, lease: Lease | None = None) -> None:
        self.cursor = CURSOR
        self.is_remote = is_remote
        self.lease = lease
        self.batches = list(batches)
        self.failures: list[Exception] = []
        self.polls: list[tuple[int, int, bool]] = []
        """(max_records, timeout_ms, retries_only) of each."""
        self.commits: list[Commit] = []
        self.intents: list[tuple[list[int], bool]] = []
        self.lost: Sequence[int] = ()
        self.is_released = False
        self.more = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.deaf_to = 0
        """How many cancellations of a read are lost."""

    def hold(self) -> None:
        self.open.clear()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        self.polls.append((max_records, timeout_ms, retries_only))
        self._fail()
        while not self.batches:
            try:
                await self.more.wait()
            except asyncio.CancelledError:
                if self.deaf_to == 0:
                    raise
                self.deaf_to -= 1
            self.more.clear()
        return self.batches.pop(0)

    def give(self, batch: Batch) -> None:
        """Have the next read, or the one that waits, find this."""
        self.batches.append(batch)
        self.more.set()

    async def commit(self, commit: Commit) -> Sequence[int]:
        self.commits.append(commit)
        await self.open.wait()
        self._fail()
        return self.lost

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        self._fail()
        self.intents.append((list(offsets), is_alone))

    async def end_reads(self) -> None:
        pass

    async def release(self) -> None:
        self.is_released = True


class IdleExecutor(Executor):
    """Runs nothing, and has something to do at `at_ms`."""

    def __init__(self, at_ms: int = NEVER) -> None:
        self.at_ms = at_ms

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        return len(records)

    @property
    def due_ms(self) -> int:
        return self.at_ms

    def poll_timeout_ms(self, idle: IdleTracker, now_ms: int) -> int:
        return 1_000


async def let_run(turns: int = 10) -> None:
    """Give other tasks some turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)

"""Executor of an ordered handler that groups by another key than its records' own.

Order, held-back records and `ctx.state` go by the key of the records that a handler's executor gets: here they are
put under their grouping key before. What is committed are the records that the cursor has read.
"""

from collections.abc import Awaitable, Callable, Sequence

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.batch_state import BatchState, StoreState
from pspf.engine.handlers.executor import Executor, YieldPoint
from pspf.engine.idleness import IdleTracker
from pspf.records import OperatorProgress, Record
from pspf.windowing.grouping import GroupedRecord, Grouper, GroupingKey, describe_grouping

_SECTION_RECORDS = 64


class GroupedExecutor(Executor):
    """Runs `inner` on the records of a cursor under their grouping keys.

    The key that they are grouped by is stored with the first commit, so that another one is refused later.
    """

    def __init__(
        self,
        inner: Executor,
        grouper: Grouper,
        key: GroupingKey,
        state: BatchState | StoreState | None,
        read_progress: Callable[[], Awaitable[bytes | None]],
    ) -> None:
        self.can_be_cut = inner.can_be_cut
        self._inner = inner
        self._grouper = grouper
        self._key = key
        self._state = state
        self._read_progress = read_progress
        self._is_described: bool | None = None
        """Whether the key is stored; None: that was not asked yet."""

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        if self._is_described is None:
            self._is_described = await self._read_progress() is not None
        grouped = await self._group(records)
        if self._state is not None:
            self._state.begin([record.raw_key for record in grouped])
        taken = await self._inner.run(grouped, run)
        if not self._is_described and run.progress is None and records:
            run.progress = OperatorProgress(None, describe_grouping(self._key))
            self._is_described = True
        if taken < len(grouped):
            left = grouped[taken].offset
            taken_records = next(at for at, record in enumerate(records) if record.offset == left)
        else:
            taken_records = len(records)
        run.passed += taken_records - taken
        return taken_records

    async def _group(self, records: Sequence[Record]) -> list[GroupedRecord]:
        found: list[GroupedRecord] = []
        yield_point = YieldPoint()
        for begin in range(0, len(records), _SECTION_RECORDS):
            await yield_point.take()
            for record in records[begin : begin + _SECTION_RECORDS]:
                grouped = self._grouper.group(record)
                if grouped is not None:
                    found.append(grouped)
        return found

    @property
    def has_work(self) -> bool:
        return self._inner.has_work

    @property
    def due_ms(self) -> int:
        return self._inner.due_ms

    def finish(self) -> None:
        self._inner.finish()

    def poll_timeout_ms(self, idle: IdleTracker, now_ms: int) -> int:
        return self._inner.poll_timeout_ms(idle, now_ms)

    async def on_idle(self, idle: IdleTracker) -> None:
        await self._inner.on_idle(idle)

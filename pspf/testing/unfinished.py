"""Unfinished work of an app under test: what is not done although it could be at the clock's time."""

from collections.abc import Awaitable, Callable, Sequence

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import PendingRecord, Waiting
from pspf.connectors.contract.values import CursorInfo
from pspf.records import Cursor
from pspf.runtime.app.plan import AppPlan
from pspf.runtime.worker.drain import name_of
from pspf.stream import Stream


class UnfinishedWork:
    """Looks for work of a Stream, which runs; `read_pending` returns the records that are not done."""

    def __init__(
        self, stream: Stream, plan: AppPlan, read_pending: Callable[[], Awaitable[Sequence[PendingRecord]]]
    ) -> None:
        self._stream = stream
        self._wanted = set(plan.work.cursors)
        self._read_pending = read_pending

    async def find(self, broker: Broker) -> Sequence[str]:
        """Return the work that is not done although it could be, in words."""
        processor, before = self._stream.processor, self._count_batches()
        is_at_rest = processor.is_at_rest
        left = await self._find_unread(broker)
        # What was read in several steps holds only where nothing moved meanwhile.
        if not left and not (is_at_rest and processor.is_at_rest and before == self._count_batches()):
            left = ["a batch is under way"]
        if left:
            left += [
                f"{each.handler} has {len(each.batch)} records of {each.topic} in hand"
                for each in self._stream.telemetry.activities
                if each.handling_since_ms is not None
            ]
        return left

    async def _find_unread(self, broker: Broker) -> list[str]:
        wanted = self._wanted
        handlers = {(name.group, name.handler) for name in wanted}
        infos = [info for info in await broker.list_cursors() if (info.cursor.group, info.cursor.handler) in handlers]
        if self._stream.session_id is None:
            return ["the app has not begun"]
        missing = wanted - {name_of(info.cursor) for info in infos}
        left = [f"{name.topic}/{name.group} has not begun" for name in missing]
        begun = {
            (topic, each.group, each.partition) for each in self._stream.telemetry.activities for topic in each.topics
        }
        left += [
            f"{info.cursor} is in nobody's hands"
            for info in infos
            if name_of(info.cursor) in wanted and _place_of(info.cursor) not in begun
        ]
        left += [
            f"{info.cursor}: {info.unread} unread, {info.pending} pending" for info in infos if self._has_work(info)
        ]
        if any(info.retries for info in infos):
            due = [
                each
                for each in await self._read_pending()
                if each.due_ms is not None and each.due_ms <= self._stream.processor.clock.now_ms()
            ]
            left += [f"{each.cursor}: {each.id} is due" for each in due if each.waiting is Waiting.RETRY]
        return left

    def _has_work(self, info: CursorInfo) -> bool:
        is_full = info.held_back + info.retries >= self._stream.processor.tuning.max_held_back
        is_waiting = is_full or info.cursor in self._stream.processor.waiting_cursors
        return info.pending > 0 or (info.unread != 0 and not is_waiting)

    def _count_batches(self) -> int:
        return sum(counters.batches for counters in self._stream.telemetry.snapshot())


def _place_of(cursor: Cursor) -> tuple[str, str, int]:
    return cursor.topic, cursor.group, cursor.partition

"""The sender of a shuffle: sends the records of one source partition on to the partitions of their grouping keys.

It has a cursor of its own, so that a record is sent on exactly once; downstream the handler's operator reads the
shuffle topic. A record whose grouping key can't be computed is retried and dead-lettered here, and while it waits the
time of this source stands still, so that nothing is closed over it.
"""

from collections.abc import Mapping
from typing import Any, Final

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.idleness import IdleTracker
from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.places import Item
from pspf.records import NO_CHANGES, EntryChanges, partition_of
from pspf.windowing.progress import read_part
from pspf.windowing.shuffle import keys_of_partitions, mark, send_on
from pspf.windowing.spans import BEGINNING

_FIRST_LOOK_MS: Final = 100
_LAST_LOOK_MS: Final = 500


class ShuffleSender(Operator):
    """One source partition on its way through the shuffle topic. The watermark is the time that it tells."""

    orders_by_grouping_key = False
    moves_watermark = False

    def __init__(self, context: OperatorContext) -> None:
        super().__init__(context)
        assert context.subscription.repartition is not None
        self._shuffle = context.subscription.repartition
        self._tells_time = context.definition.tells_time
        self._keys = keys_of_partitions(self._shuffle.partitions)
        self._highest_ms = BEGINNING
        """The highest event time that was read here; it is passed on unless a record waits that was read before."""
        self._told: dict[int, int] = {}
        """The time of this source that each partition last heard of."""
        self._others: Mapping[int, int] = {}
        self._others_read = 0
        """How many reads of our own were begun when we learned of the others."""
        self._look_ms = _FIRST_LOOK_MS
        self._has_news = False

    async def restore(self, stored: Mapping[str, Any] | None) -> None:
        if stored is not None:
            self._highest_ms = read_part(self.context.name, lambda: int(stored["highest_ms"]))

    def take_changes(self) -> EntryChanges:
        return NO_CHANGES

    def progress(self) -> Mapping[str, Any]:
        return {"highest_ms": self._highest_ms, "is_finished": True}  # nothing is open here: that is downstream

    async def fold_one(self, item: Item, run: BatchRun) -> None:
        record, _, key, time_ms, _ = item
        self._look_ms = _FIRST_LOOK_MS
        self._note(time_ms)
        source_ms = self.context.time.watermark_ms
        routed = send_on(record, key, source_ms)
        run.send(record.offset, self._shuffle.topic, routed)
        run.passed += 1
        self._told[partition_of(routed.raw_key or b"", self._shuffle.partitions)] = source_ms

    def _note(self, time_ms: int) -> None:
        self._highest_ms = max(self._highest_ms, time_ms)
        if not len(self.context.scope.held):
            self.context.time.watermark_ms = self._highest_ms

    async def end_batch(self, source: int, run: BatchRun) -> None:
        """Let all partitions know this source's time."""
        self._note(BEGINNING)
        source_ms = self.context.time.watermark_ms
        if self._tells_time and source_ms != BEGINNING:
            cursor = self.context.scope.consumer.cursor
            own = cursor.topic, cursor.partition
            for partition, raw_key in enumerate(self._keys):
                if self._told.get(partition) != source_ms:
                    run.send(source, self._shuffle.topic, mark(own, source_ms, raw_key))
                    self._told[partition] = source_ms
        self._has_news = False

    # At the end of the partition

    @property
    def has_work(self) -> bool:
        return self._has_news

    def poll_timeout_ms(self, idle: IdleTracker, longest_ms: int) -> int:
        if not self._tells_time:
            return longest_ms
        # What has learned that others are ahead has only to see that there is still nothing here.
        return 1 if self._is_behind_others and not len(self.context.scope.held) else self._look_ms

    async def on_idle(self, idle: IdleTracker) -> None:
        """Take over the time of the others, where a read that began after they passed it on found nothing."""
        scope = self.context.scope
        if not self._tells_time or not idle.shown or len(scope.held):
            return
        if self._is_behind_others and idle.shown > self._others_read:
            self._highest_ms = self.context.time.watermark_ms = max(self._others.values())
            self._has_news = True
        others = await scope.insist("read the times of other partitions", scope.read_times)
        if others == self._others:  # and known since then
            self._look_ms = min(2 * self._look_ms, _LAST_LOOK_MS)
        else:
            self._look_ms = _FIRST_LOOK_MS
            self._others, self._others_read = others, idle.reads

    @property
    def _is_behind_others(self) -> bool:
        return max(self._others.values(), default=BEGINNING) > self.context.time.watermark_ms

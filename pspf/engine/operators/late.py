"""Late records of an operator: they go to the companion topic of the one that they came from."""

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.places import Item, TooLate
from pspf.engine.operators.source import RecordSource
from pspf.records import LATE_SUFFIX, NewRecord
from pspf.subscription import Subscription
from pspf.windowing.results import encode_late


class LateRecords:
    """The late records of a batch."""

    def __init__(self, subscription: Subscription, source: RecordSource) -> None:
        self._subscription = subscription
        self._source = source
        self._records: list[NewRecord] = []

    def begin(self) -> None:
        """Start a batch."""
        self._records = []

    def send(self, item: Item, late: TooLate, run: BatchRun) -> None:
        """Put a record aside that is late for all of its windows. The record has not succeeded yet."""
        record, _, _, _, at_ms = item
        original = self._source.original_of(record) or record
        told = {
            "handler": self._subscription.name,
            "group": self._subscription.group,
            "original-id": original.id,
            "window-start-ms": late.start_ms,
            "window-end-ms": late.end_ms,
            "watermark-ms": at_ms,
            "by-ms": late.by_ms,
        }
        if self._source.is_downstream or original.topic != self._source.topic:
            # to the companion of where it came from, which is not this cursor's topic
            run.send(record.offset, original.topic + LATE_SUFFIX, encode_late(original, told))
        else:
            self._records.append(encode_late(original, told))
            run.count(1, len(record.value))
        run.late += 1

    def take(self) -> tuple[NewRecord, ...]:
        """Return what goes to the companion of the cursor's own topic, for the commit."""
        return tuple(self._records)

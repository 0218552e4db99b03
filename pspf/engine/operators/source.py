"""The topic that an operator's records have come from, on this side of a shuffle or behind it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pspf.errors import SchemaError
from pspf.events.decoding import Decoder
from pspf.records import Record
from pspf.subscription import Subscription
from pspf.windowing.shuffle import receive


class RecordSource:
    """Where records were before a shuffle; without one, where they are."""

    def __init__(self, subscription: Subscription, decode: Decoder, partition: int) -> None:
        shuffle = subscription.repartition
        self.is_downstream = subscription.is_behind_hop
        self.topic = subscription.topic if shuffle is None else shuffle.source
        self.records: Sequence[Record] = ()
        """The batch that is being handled."""
        self._decode = decode
        self._partition = partition

    def original_of(self, record: Record) -> Record | None:
        """Return a record as it was before the shuffle, None for a mark.

        Raises:
            SchemaError: It was put behind the shuffle by something else than PSPF.
        """
        return receive(record, self.topic).record if self.is_downstream else record

    def decode(self, record: Record) -> Any:
        """Return the event of a record that is aggregated again. Errors: whatever its model raises."""
        original = self.original_of(record)
        return None if original is None else self._decode(original)

    def place_of(self, offset: int) -> tuple[int, int]:
        """Return the partition and offset, before the shuffle, of a record of the batch."""
        sent_on = next((record for record in self.records if record.offset == offset), None)
        if self.is_downstream and sent_on is not None:
            with suppress(SchemaError):
                original = self.original_of(sent_on)
                if original is not None:
                    return original.partition, original.offset
        return self._partition, offset

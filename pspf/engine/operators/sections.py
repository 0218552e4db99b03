"""Sections of a batch: records up to the one before which something is due, read and placed."""

from collections.abc import Sequence
from typing import Any

from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.places import Broken, Item, Mark
from pspf.events.decoding import Decoder, SectionDecoder, Unreadable
from pspf.events.timestamps import FutureGuard, find_latest_ms, time_of
from pspf.records import Record
from pspf.subscription import Subscription
from pspf.windowing.event_time import KeyReader, make_key_reader, make_strict_key_reader
from pspf.windowing.shuffle import Source, SourceTimes, receive

Section = tuple[list[Item], int, bool]
"""Records to fold one after the other, as nothing is due between them; a watermark; whether something is due there.

The watermark is that of the last of the records or, where something is due, of the one behind them.
"""


class SectionReader:
    """Reads the records of batches by sections."""

    def __init__(self, context: OperatorContext, read: SectionDecoder, operator: Operator) -> None:
        self._context = context
        self._operator = operator
        self._read_events = read
        self._key_of = _make_key_reader(context.subscription)
        self._future = FutureGuard(context.name)
        self._carried: tuple[Record, Sequence[Any]] | None = None
        """What was read beyond the end of the last section: its first record, and the events from it on."""

    def read(self, records: Sequence[Record], begin: int) -> Section:
        """Return some of the records from `begin` on, at most up to the one before which something is due."""
        items: list[Item] = []
        time, operator = self._context.time, self._operator
        add, place, due_watermark_ms = items.append, operator.place, operator.due_watermark_ms
        key_of, held_ms, stretch_ms = self._key_of, time.held_ms, operator.stretch_ms
        definition = self._context.definition
        delay_ms = definition.watermark_delay_ms
        latest_ms = find_latest_ms(definition.max_future_ms, self._context.scope.clock)
        watermark_ms, next_ms, floor_ms = time.watermark_ms, due_watermark_ms(), time.floor_ms
        # Where the last record went; one of the same stretch goes there, as nothing gets due within a section.
        low_ms = high_ms = 0
        events = self._read_on(records, begin)
        for at, event in enumerate(events):
            record = records[begin + at]
            try:
                if isinstance(event, Unreadable):
                    raise event.error
                time_ms = time_of(event, record)
                key = key_of(event, record)
                if time_ms > latest_ms:
                    raise self._future.refuse(record, time_ms, latest_ms)
            except BaseException as error:  # the boundary of the record: it fails when its turn comes
                add((record, None, None, Broken(error), max(watermark_ms, floor_ms)))
                continue
            if time_ms - delay_ms > watermark_ms:
                watermark_ms = time_ms - delay_ms
            # The record moves the watermark to where something is due: that is done before it is aggregated.
            if watermark_ms >= next_ms and (items or watermark_ms > time.watermark_ms):
                self._carried = record, events[at:]
                return items, watermark_ms, True
            at_ms = watermark_ms if watermark_ms > floor_ms else floor_ms
            if low_ms <= time_ms < high_ms:
                add((record, event, key, low_ms, at_ms))
                continue
            # One that was read before is judged by the watermark of then.
            if held_ms:
                at_ms = held_ms.get(record.offset, at_ms)
            where = place(time_ms, key, at_ms)
            next_ms = due_watermark_ms()
            if type(where) is int and not held_ms:
                low_ms, high_ms = where, where + stretch_ms
            add((record, event, key, where, at_ms))
        return items, watermark_ms, False

    def _read_on(self, records: Sequence[Record], begin: int) -> Sequence[Any]:
        """Return the events of some records from `begin` on: those that were read already, else of a section."""
        if self._carried is not None:
            (first, events), self._carried = self._carried, None
            if first is records[begin]:
                return events
        return self._read_events(records[begin : begin + self._operator.section_records])

    def note_taken(self, count: int) -> None:
        """Note how many records of the last section were taken."""

    def restore(self, source_times: dict[Source, int]) -> None:
        """Take over what the last commit stored."""

    @property
    def source_times(self) -> dict[Source, int]:
        """The times of the source partitions of a shuffle, for the commit."""
        return {}


class DownstreamReader(SectionReader):
    """Reads the records that a shuffle has sent on, and its marks: all sources together move the watermark."""

    def __init__(self, context: OperatorContext, decode: Decoder, operator: Operator) -> None:
        super().__init__(context, _read_nothing, operator)
        self._decode = decode
        self._times = SourceTimes(1, {})  # until `restore`
        self._heard: list[tuple[Source, int] | None] = []
        """What each record of the last section tells of its source and its time; None where it can't be read."""

    def restore(self, source_times: dict[Source, int]) -> None:
        shuffle = self._context.subscription.repartition
        assert shuffle is not None
        self._times = SourceTimes(shuffle.partitions, source_times)

    @property
    def source_times(self) -> dict[Source, int]:
        return self._times.heard

    def read(self, records: Sequence[Record], begin: int) -> Section:
        items: list[Item] = []
        heard: list[tuple[Source, int] | None] = []
        self._heard = heard
        times, time, operator = self._times.copy(), self._context.time, self._operator
        delay_ms, watermark_ms = self._context.definition.watermark_delay_ms, time.watermark_ms
        topic = self._context.source.topic
        for record in records[begin : begin + operator.section_records]:
            try:
                arrival = receive(record, topic)
                times.hear(arrival.source, arrival.source_ms)
                event = None if arrival.record is None else self._decode(arrival.record)
                time_ms = 0 if arrival.record is None else time_of(event, arrival.record)
            except BaseException as error:  # the boundary of the record: it fails when its turn comes
                items.append((record, None, None, Broken(error), max(watermark_ms, time.floor_ms)))
                heard.append(None)
                continue
            watermark_ms = max(watermark_ms, times.watermark_ms(delay_ms))
            if watermark_ms >= operator.due_watermark_ms() and (items or watermark_ms > time.watermark_ms):
                return items, watermark_ms, True
            at_ms = time.held_ms.get(record.offset, max(watermark_ms, time.floor_ms))
            where = Mark() if arrival.record is None else operator.place(time_ms, arrival.key, at_ms)
            items.append((record, event, arrival.key, where, at_ms))
            heard.append(arrival[:2])
        return items, watermark_ms, False

    def note_taken(self, count: int) -> None:
        for told in self._heard[:count]:
            if told is not None:
                self._times.hear(*told)


def _read_nothing(records: Sequence[Record]) -> Sequence[Any]:
    return ()


def _make_key_reader(subscription: Subscription) -> KeyReader:
    definition = subscription.operator
    assert definition is not None
    if definition.key is None and subscription.partitions > 1:
        return make_strict_key_reader(subscription.partitions)
    return make_key_reader(definition.key)

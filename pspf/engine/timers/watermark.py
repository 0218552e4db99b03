"""Event time of a cursor whose handler has timers: how far it is, and which records bring it to where one is due."""

from collections.abc import Sequence
from typing import Any

from pspf.clock import Clock
from pspf.events.decoding import Decoder
from pspf.events.timestamps import find_latest_ms, time_of
from pspf.loggers import get_logger
from pspf.records import Record
from pspf.windowing.spans import BEGINNING, NEVER
from pspf.windowing.timers.definition import TimerDefinition

logger = get_logger(__name__)


class Watermark:
    """The highest event time that was read, less the delay. It never goes back, and a retried record moves it no more.

    Events are decoded once: what is decoded here is kept for the handler's own call.
    """

    def __init__(self, definition: TimerDefinition, decode: Decoder, clock: Clock, name: str) -> None:
        self.at_ms = BEGINNING
        self._delay_ms = definition.watermark_delay_ms
        self._max_future_ms = definition.max_future_ms
        self._decode = decode
        self._clock = clock
        self._name = name
        self._events: dict[int, Any] = {}
        self._has_warned = False

    def decode(self, record: Record) -> Any:
        """Return the event of a record, for the handler. Errors: whatever its model raises."""
        event = self._events.pop(record.offset, None)
        return self._decode(record) if event is None else event

    def begin(self) -> None:
        """Start a batch."""
        self._events.clear()

    def read(
        self, records: Sequence[Record], begin: int, position: int, next_ms: int, *, one_per_key: bool = False
    ) -> tuple[int, int]:
        """Return (end, watermark): from `begin` up to `end` no record brings the watermark to `next_ms`.

        The watermark is that of the last of them or, where the first one itself brings it there, of that one.
        Records before `position` were read before. With `one_per_key` no two of them have one key.
        """
        at_ms, latest_ms = self.at_ms, find_latest_ms(self._max_future_ms, self._clock)
        keys = set[bytes]()
        for place in range(begin, len(records)):
            record = records[place]
            if one_per_key and record.raw_key is not None:
                if record.raw_key in keys:
                    return place, at_ms
                keys.add(record.raw_key)
            moved_ms = at_ms if record.offset < position else max(at_ms, self._time_of(record, latest_ms))
            if at_ms < moved_ms >= next_ms:
                return (place, moved_ms) if place == begin else (place, at_ms)
            at_ms = moved_ms
        return len(records), at_ms

    def advance(self, to_ms: int) -> None:
        """Move on; an earlier time changes nothing."""
        if self.at_ms < to_ms < NEVER:
            self.at_ms = to_ms

    def _time_of(self, record: Record, latest_ms: int) -> int:
        """Return the watermark that a record brings; none where it can't be read, or is of too far ahead."""
        try:
            event = self._events.get(record.offset)
            if event is None:
                event = self._events[record.offset] = self._decode(record)
            time_ms = time_of(event, record)
        except BaseException:  # the boundary of the record: its call fails when its turn comes
            return BEGINNING
        if time_ms > latest_ms:
            self._warn(record, time_ms - latest_ms)
            return BEGINNING
        return time_ms - self._delay_ms

    def _warn(self, record: Record, by_ms: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s %s: its event time is %d ms further ahead than max_future_ms= of the timers of %s takes, and does"
                " not move their watermark; later ones are not told of",
                record.topic,
                record.id,
                by_ms,
                self._name,
            )

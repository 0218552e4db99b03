"""The shuffle: routes records to the partition of their grouping key, with the watermark of their source.

What goes through the internal topic is the record's own bytes under its grouping key, with its own time; where
it comes from and its own key ride in headers of ours, beside its own. With it comes the time of its source:
the highest event time that its source partition has sent on. Marks carry that time to the partitions that no
record went to.

The watermark behind the hop is the lowest of these times over all source partitions (minus the delay): a
partition that is read later than others makes nothing late. It needs to have heard of every one. A source that
has been read to its end takes over the highest time of the others, so that an empty or quiet partition does
not hold windows open.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final, NamedTuple

import orjson

from pspf.compact import compact
from pspf.errors import SchemaError
from pspf.records import NewRecord, Record, decode_headers, encode_headers, partition_of
from pspf.windowing.event_time import Key
from pspf.windowing.spans import BEGINNING

_PREFIX: Final = "pspf-source-"
_TOPIC: Final = _PREFIX + "topic"
"""Missing where an older version wrote it: then it is the one that the handler reads."""
_PARTITION: Final = _PREFIX + "partition"
_OFFSET: Final = _PREFIX + "offset"
_TIME: Final = _PREFIX + "time-ms"
_KEY: Final = _PREFIX + "key"
_KEYLESS: Final = _PREFIX + "groups-without-key"
_RAW_HEADERS: Final = _PREFIX + "headers"


Source = tuple[str, int]
"""(topic, partition) that records of a shuffle come from."""


class Arrival(NamedTuple):
    """A record behind the hop: which source partition it tells the time of, and the record as it was there.

    A mark has no `record`. `key` is the grouping key.
    """

    source: Source
    source_ms: int
    record: Record | None
    key: Key


def send_on(record: Record, key: Key, source_ms: int) -> NewRecord:
    """Return a record for the internal topic. Records without a grouping key all go to one partition.

    Raises:
        SchemaError: Its own key is not UTF-8.
    """
    headers = {
        _TOPIC: record.topic,
        _PARTITION: str(record.partition),
        _OFFSET: str(record.offset),
        _TIME: str(source_ms),
    }
    own_key = record.key
    if own_key is not None:
        headers[_KEY] = own_key
    if key is None:
        headers[_KEYLESS] = "1"
    if record.raw_headers is not None:
        try:
            headers = decode_headers(record.raw_headers) | headers
        except SchemaError:
            headers[_RAW_HEADERS] = record.raw_headers.decode("latin-1")
    raw_key = b"" if key is None else key.encode()
    return NewRecord(raw_key, record.value, compact(orjson.dumps(headers)), record.timestamp_ms)


def mark(source: Source, source_ms: int, raw_key: bytes) -> NewRecord:
    """Return what tells a partition the time of a source; `raw_key` is one that leads there."""
    topic, partition = source
    headers = {_TOPIC: topic, _PARTITION: str(partition), _TIME: str(source_ms)}
    return NewRecord(raw_key, b'{"event_type":"Watermark"}', compact(orjson.dumps(headers)))


def keys_of_partitions(partitions: int) -> Sequence[bytes]:
    """Return a key that leads to each partition, in order."""
    found: dict[int, bytes] = {}
    for number in count():
        raw_key = b"%d" % number
        found.setdefault(partition_of(raw_key, partitions), raw_key)
        if len(found) == partitions:
            break
    return [found[partition] for partition in range(partitions)]


def receive(record: Record, topic: str) -> Arrival:
    """Return what arrived behind the hop; `topic` is the one it came from.

    Raises:
        SchemaError: PSPF has not written it.
    """
    headers = decode_headers(record.raw_headers)
    try:
        source, source_ms = (headers.pop(_TOPIC, topic), int(headers.pop(_PARTITION))), int(headers.pop(_TIME))
        offset = headers.pop(_OFFSET, None)
        if offset is None:
            return Arrival(source, source_ms, None, None)
        own_key = headers.pop(_KEY, None)
        is_keyless = headers.pop(_KEYLESS, None) is not None
        raw_headers = headers.pop(_RAW_HEADERS, None)
        original = Record(
            *source,
            int(offset),
            None if own_key is None else own_key.encode(),
            record.value,
            encode_headers(headers) if raw_headers is None else raw_headers.encode("latin-1"),
            record.timestamp_ms,
            record.attempts,
        )
    except (KeyError, ValueError) as error:
        raise SchemaError(f"{record.topic} {record.id} was not put there by PSPF; emit to {topic!r}") from error
    return Arrival(source, source_ms, original, None if is_keyless else record.key)


class SourceTimes:
    """The times of all source partitions, as heard; their lowest counts."""

    __slots__ = ("_lowest_ms", "_sources", "heard")

    def __init__(self, sources: int, heard: Mapping[Source, int]) -> None:
        self._sources = sources
        self.heard = dict(heard)
        self._lowest_ms = self._find()

    def copy(self) -> "SourceTimes":
        return SourceTimes(self._sources, self.heard)

    def hear(self, source: Source, source_ms: int) -> None:
        """Take in the time of a source, which never goes back."""
        before_ms = self.heard.get(source)
        if before_ms is None or source_ms > before_ms:
            self.heard[source] = source_ms
            if before_ms is None or before_ms == self._lowest_ms:
                self._lowest_ms = self._find()

    def watermark_ms(self, delay_ms: int) -> int:
        """Return the watermark; BEGINNING while there are sources that nothing was heard of."""
        return BEGINNING if self._lowest_ms == BEGINNING else self._lowest_ms - delay_ms

    def _find(self) -> int:
        return min(self.heard.values()) if len(self.heard) >= self._sources else BEGINNING

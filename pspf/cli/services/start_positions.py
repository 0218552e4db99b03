"""Start positions: a position in a topic as an offset in each partition."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from pspf.cli.parsing import TopicPosition
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import PartitionInfo
from pspf.records import Record, parse_id

CHUNK: Final = 500


async def find_offsets(broker: Broker, topic: str, place: TopicPosition) -> Mapping[int, int]:
    """Return the first offset to read, by partition.

    A record's id names a place in its own partition; the others start at the same time.

    Raises:
        NotFound: There is no such topic.
    """
    _, partitions = await broker.read_topic(topic)
    if place.start:
        return {p.partition: p.first for p in partitions}
    if place.end:
        return {p.partition: p.next for p in partitions}
    if place.at_ms is not None:
        return await _at(broker, topic, partitions, place.at_ms)
    if place.record_id is not None:
        return await _from_id(broker, topic, partitions, place.record_id)
    return await _last(broker, topic, partitions, place.last or 0)


async def _at(broker: Broker, topic: str, partitions: Sequence[PartitionInfo], at_ms: int) -> dict[int, int]:
    return {p.partition: await broker.find_offset(topic, p.partition, at_ms=at_ms) for p in partitions}


async def _from_id(broker: Broker, topic: str, partitions: Sequence[PartitionInfo], record_id: str) -> dict[int, int]:
    partition, offset = parse_id(record_id)
    found = await broker.read(topic, partition, offset=offset, max_records=1)
    if not found:
        return {p.partition: p.next for p in partitions}
    return await _at(broker, topic, partitions, found[0].timestamp_ms) | {partition: offset}


async def _last(broker: Broker, topic: str, partitions: Sequence[PartitionInfo], count: int) -> dict[int, int]:
    """Return where the `count` latest records of all partitions together begin."""
    starts = {p.partition: p.next for p in partitions}
    latest: list[Record] = []
    if count > 0:
        for p in partitions:
            latest += await _read_last(broker, topic, p, count)
    latest.sort(key=order)
    for record in latest[-count:] if count else ():
        starts[record.partition] = min(starts[record.partition], record.offset)
    return starts


async def _read_last(broker: Broker, topic: str, partition: PartitionInfo, count: int) -> list[Record]:
    """Return the last `count` records of a partition, by looking back further until there are enough.

    Offsets have gaps, and may be sparse: how many records lie in a span of them is only guessed.
    """
    if not partition.records:
        return []
    span = max(count, math.ceil((partition.next - partition.first) / partition.records * count))
    while True:
        start = max(partition.first, partition.next - span)
        records: list[Record] = []
        at = start
        while chunk := await broker.read(topic, partition.partition, offset=at, max_records=CHUNK):
            records = [*records, *chunk][-count:]
            at = chunk[-1].offset + 1
        if len(records) == count or start == partition.first:
            return records
        span *= 4


def order(record: Record) -> tuple[int, int, int]:
    """Return what records of several partitions are sorted by."""
    return record.timestamp_ms, record.partition, record.offset

"""Trim of a topic: describes the removal in each partition, and does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pspf.cli.console import count_of, format_size, say, write_json, write_table
from pspf.cli.parsing import TopicPosition
from pspf.cli.services.start_positions import find_offsets
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import Trimmed
from pspf.errors import NotFound
from pspf.records import Cursor, format_id


@dataclass(frozen=True, slots=True)
class Trimming:
    """What is to stay of a topic: records from `place` on, or of each partition the last few or so many bytes."""

    topic: str
    place: TopicPosition | None
    max_records: int | None
    max_bytes: int | None
    partition: int | None
    drop_unread: bool

    async def run(self, broker: Broker, *, dry_run: bool) -> list[Trimmed]:
        """Trim each partition, or say what would go.

        Raises:
            NotFound: There is no such partition.
        """
        _, bounds = await broker.read_topic(self.topic)
        numbers = [bound.partition for bound in bounds if self.partition in (None, bound.partition)]
        if not numbers:
            raise NotFound(f"topic {self.topic!r} has partitions 0 to {len(bounds) - 1}, no {self.partition}")
        before: Mapping[int, int | None] = dict.fromkeys(numbers)
        if self.place is not None:
            before = dict(await find_offsets(broker, self.topic, self.place))
        return [
            await broker.operations.trim(
                self.topic,
                number,
                before=before[number],
                max_records=self.max_records,
                max_bytes=self.max_bytes,
                drop_unread=self.drop_unread,
                dry_run=dry_run,
            )
            for number in numbers
        ]


def print_trims(topic: str, trims: Sequence[Trimmed], *, executed: bool, as_json: bool) -> None:
    """Print what went, or would go, from each partition, and what stays for whom."""
    if as_json:
        partitions = [_as_json(trim) for trim in trims]
        records, lost = sum(trim.records for trim in trims), sum(_lost(trim) for trim in trims)
        write_json({"topic": topic, "partitions": partitions, "records": records, "lost": lost, "executed": executed})
        return
    rows = [
        (
            trim.partition,
            format_id(trim.partition, trim.before),
            format_id(trim.partition, trim.after),
            trim.records,
            format_size(trim.size_bytes),
            _lost(trim),
        )
        for trim in trims
    ]
    write_table(("part", "first was", "first is", "records", "bytes", "lost"), rows)
    would = "" if executed else "would be "
    for trim in trims:
        for loss in trim.lost:
            say(f"lost: {count_of(loss.records, 'record')} {would}gone before {_name(loss.cursor)} finished them")
        if trim.held_by:
            names = ", ".join(_name(cursor) for cursor in trim.held_by[:3])
            say(f"partition {trim.partition} keeps what is not finished by {names}; --drop-unread removes it too")


def is_held(trims: Sequence[Trimmed]) -> bool:
    """Return whether something stays that was to go."""
    return any(trim.held_by for trim in trims)


def _lost(trim: Trimmed) -> int:
    return sum(loss.records for loss in trim.lost)


def _name(cursor: Cursor) -> str:
    return f"{cursor.group}/{cursor.handler}" if cursor.handler else cursor.group


def _as_json(trim: Trimmed) -> dict[str, Any]:
    return {
        "partition": trim.partition,
        "before": format_id(trim.partition, trim.before),
        "after": format_id(trim.partition, trim.after),
        "records": trim.records,
        "bytes": trim.size_bytes,
        "lost": [
            {"group": loss.cursor.group, "handler": loss.cursor.handler, "records": loss.records} for loss in trim.lost
        ],
        "held_by": [{"group": cursor.group, "handler": cursor.handler} for cursor in trim.held_by],
    }

"""Unfinished records for commands: selection and display."""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from pspf.cli.console import count_of, format_span, shorten, write_table
from pspf.cli.services.lag import check_group
from pspf.cli.services.roster import processes_of, read_workers
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import PendingRecord, Waiting
from pspf.errors import NotFound
from pspf.events.step_places import STEPS, STEPS_BESIDE, StepPlaces
from pspf.records import Cursor, as_text, parse_id

_MOST: Final = 1_000_000
_BATCH: Final = 1_000


@dataclass(frozen=True, slots=True)
class PendingFilter:
    """Filter of a group's records; one that is None or empty takes all. An id may have its topic: `orders/42`."""

    group: str
    topic: str | None = None
    handler: str | None = None
    key: str | None = None
    error_type: str | None = None
    ids: tuple[str, ...] = ()

    def takes(self, record: PendingRecord) -> bool:
        """Return whether a record is meant."""
        error_type = record.error.partition(":")[0]
        return (
            self.handler in (None, record.cursor.handler)
            and self.key in (None, as_text(record.key))
            and self.error_type in (None, error_type, error_type.rpartition(".")[2])
            and (not self.ids or _is_named(record, self.ids))
        )


def _is_named(record: PendingRecord, ids: Sequence[str]) -> bool:
    return not {record.id, f"{record.cursor.topic}/{record.id}"}.isdisjoint(ids)


async def select_of_all(broker: Broker, choices: Sequence[PendingFilter]) -> list[PendingRecord]:
    """Return the records of each choice, those that workers report to handle with them; an id may be of any group.

    Errors as in `select`.
    """
    if len(choices) == 1:
        return await select(broker, choices[0], with_in_hand=True)
    ids = choices[0].ids if choices else ()
    found = [
        record
        for choice in choices
        for record in await select(broker, replace(choice, ids=()), with_in_hand=True)
        if choice.takes(record)
    ]
    missing = [record_id for record_id in ids if not any(_is_named(record, [record_id]) for record in found)]
    if missing:
        raise NotFound(f"record {', '.join(missing)} is not pending for any group: done, or not delivered yet")
    return found


async def select(broker: Broker, choice: PendingFilter, *, with_in_hand: bool = False) -> list[PendingRecord]:
    """Return the records of `choice`, first those that workers report to handle.

    Raises:
        NotFound: There is no such group, or it is not on the topic, or a record that was named is done.
        ConfigurationError: An id is malformed.
    """
    for record_id in choice.ids:
        parse_id(record_id.rpartition("/")[2])
    listed = list(await broker.operations.list_pending(choice.group, topic=choice.topic, max_records=_MOST))
    if with_in_hand:
        listed = [*await _read_in_hand(broker, choice, listed), *listed]
    if not listed:
        await check_group(broker, choice.group, choice.topic)
    known = {name for record in listed for name in (record.id, f"{record.cursor.topic}/{record.id}")}
    missing = [record_id for record_id in choice.ids if record_id not in known]
    if missing:
        raise NotFound(
            f"record {', '.join(missing)} is not pending for group {choice.group!r}: done, or not delivered yet\n"
            f"  pspf pending list {choice.group} shows what is"
        )
    return [record for record in listed if choice.takes(record)]


async def _read_in_hand(broker: Broker, choice: PendingFilter, known: Sequence[PendingRecord]) -> list[PendingRecord]:
    """Return records that workers handle and the broker does not list: the first of ordered batches."""
    places = {(record.cursor.topic, record.id) for record in known}
    found: list[PendingRecord] = []
    for worker, process in processes_of(await read_workers(broker)):
        for batch in process.batches:
            if batch.group != choice.group or choice.topic not in (None, batch.topic):
                continue
            for record_id in batch.ids:
                if (batch.topic, record_id) not in places:
                    cursor = Cursor(*batch.key, batch.partition)
                    record = await _read_busy(broker, cursor, record_id, batch.for_ms, worker)
                    found += [] if record is None else [record]
    return found


async def _read_busy(broker: Broker, cursor: Cursor, record_id: str, for_ms: int, worker: str) -> PendingRecord | None:
    _, offset = parse_id(record_id)
    for record in await broker.read(cursor.topic, cursor.partition, offset=offset, max_records=1):
        if record.offset == offset:
            return PendingRecord(cursor, offset, record.raw_key, Waiting.IN_HAND, 0, "", None, for_ms, worker)
    return None


async def in_batches(act: Callable[[Sequence[PendingRecord]], Awaitable[int]], records: Sequence[PendingRecord]) -> int:
    """Do something with records, some at a time; return how many it was done with."""
    count = 0
    for start in range(0, len(records), _BATCH):
        count += await act(records[start : start + _BATCH])
    return count


def explain_rest(records: Sequence[PendingRecord], retried: int) -> str:
    """Return why some of the records were not made due; empty where all were."""
    if len(records) == retried:
        return ""
    counts = {waiting: sum(1 for record in records if record.waiting is waiting) for waiting in Waiting}
    parts = [f"{counts[waiting]:,} {waiting.value}" for waiting in Waiting if counts[waiting]]
    return f"of {count_of(len(records), 'record')}: {', '.join(parts)}; only what waits for its next try can be hurried"


async def read_steps(broker: Broker, records: Sequence[PendingRecord]) -> Mapping[tuple[Cursor, int], Sequence[str]]:
    """Return the names of the finished steps of records, by cursor and offset; those without any are missing."""
    found: dict[tuple[Cursor, int], list[str]] = {}
    if not broker.capabilities.entries:
        return found
    wanted = {(record.cursor, record.offset) for record in records if record.cursor.handler is not None}
    for group in {cursor.group for cursor, _ in wanted}:
        # Those of a handler of several topics are with the cursor of the first one.
        handlers = {(cursor.handler, cursor.partition) for cursor, _ in wanted if cursor.group == group}
        for info in await broker.list_cursors(group=group):
            if (info.cursor.handler, info.cursor.partition) in handlers:
                await _read_steps_of(broker, info.cursor, wanted, found)
    return found


async def _read_steps_of(
    broker: Broker, home: Cursor, wanted: Set[tuple[Cursor, int]], found: dict[tuple[Cursor, int], list[str]]
) -> None:
    places = StepPlaces((home.topic,))
    for namespace in (STEPS, STEPS_BESIDE):
        after: bytes | None = None
        while page := await broker.scan_entries(home, namespace, after=after, max_entries=_BATCH):
            for key, _ in page:
                topic, offset, name = places.split(namespace, key)
                record = replace(home, topic=topic), offset
                if record in wanted:
                    found.setdefault(record, []).append(name)
            after = page[-1][0]


def print_records(
    records: Sequence[PendingRecord], steps: Mapping[tuple[Cursor, int], Sequence[str]] | None = None
) -> None:
    """Print records as a table; with the names of their finished steps where there are some."""
    rows: list[tuple[str | int | float | None, ...]] = [
        (
            record.id,
            record.cursor.topic,
            record.cursor.group,
            record.cursor.handler,
            shorten(as_text(record.key) or "-", 24),
            record.waiting.value,
            format_span(record.age_ms),
            record.attempts,
            shorten(record.error or "-", 60),
            record.consumer,
        )
        for record in records
    ]
    headers: tuple[str, ...] = (
        *("id", "topic", "group", "handler", "key", "waiting", "age", "attempts", "last error", "consumer"),
    )
    if steps:
        headers += ("steps done",)
        rows = [
            (*row, ", ".join(steps.get((record.cursor, record.offset), ())) or "-")
            for row, record in zip(rows, records, strict=True)
        ]
    write_table(headers, rows, empty="nothing is pending")


def as_json_record(record: PendingRecord, steps: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `pending list --json` has for it; `steps` are the names of those that have finished."""
    return {
        "id": record.id,
        "topic": record.cursor.topic,
        "group": record.cursor.group,
        "handler": record.cursor.handler,
        "partition": record.cursor.partition,
        "key": as_text(record.key),
        "waiting": record.waiting.value,
        "attempts": record.attempts,
        "error": record.error,
        "due_ms": record.due_ms,
        "age_ms": record.age_ms,
        "consumer": record.consumer,
        **({"steps": list(steps)} if steps else {}),
    }

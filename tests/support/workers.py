"""What a worker does with the contract, in a few words: join, take, settle."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.membership import Session
from pspf.connectors.contract.values import CursorInfo
from pspf.connectors.leases.leases import Leases
from pspf.records import (
    STATE,
    Batch,
    Commit,
    Cursor,
    DeadLetter,
    Emit,
    EntryChanges,
    NewRecord,
    Record,
    Retry,
    StateKey,
    partition_of,
    split_state_key,
    state_key,
)

TOPIC: Final = "orders"
GROUP: Final = "billing"
HANDLER: Final = "app.total"

_commit_ids = itertools.count(1)


class Member(NamedTuple):
    """One session and its consumer of one cursor."""

    session: Session
    consumer: Consumer


def new(
    value: str | bytes,
    key: str | bytes | None = None,
    *,
    raw_headers: bytes | None = None,
    timestamp_ms: int | None = None,
    event_id: str | None = None,
) -> NewRecord:
    """Return a record to append, from text or bytes."""
    raw_key = key.encode() if isinstance(key, str) else key
    raw_value = value.encode() if isinstance(value, str) else value
    return NewRecord(raw_key, raw_value, raw_headers, timestamp_ms, event_id)


def numbered(count: int, *, keys: Sequence[str] | None = None, start: int = 0) -> list[NewRecord]:
    """Return `count` records whose values are their numbers; `keys` are dealt out in turn."""
    return [new(str(n), keys[n % len(keys)] if keys else None) for n in range(start, start + count)]


def values(records: Iterable[Record]) -> list[str]:
    """Return the records' values as text."""
    return [record.value.decode() for record in records]


def offsets(records: Iterable[Record]) -> list[int]:
    """Return the records' offsets."""
    return [record.offset for record in records]


def key_in(partition: int, partitions: int, *, beside: Sequence[str] = ()) -> str:
    """Return a key that is stored in `partition` and is none of `beside`."""
    keys = (f"key-{n}" for n in itertools.count())
    return next(key for key in keys if key not in beside and partition_of(key.encode(), partitions) == partition)


async def share(broker: Broker, *, topic: str = TOPIC, group: str = GROUP, partition: int = 0) -> Member:
    """Join the group's shared cursor with a session of its own."""
    session = await broker.open_session()
    await session.register(topic, group, None)
    return Member(session, await session.share(Cursor(topic, group, None, partition)))


async def own(
    broker: Broker, *, topic: str = TOPIC, group: str = GROUP, handler: str = HANDLER, partition: int = 0
) -> Member:
    """Take an ordered cursor with a session of its own; fail where it is not free."""
    session = await broker.open_session()
    await session.register(topic, group, handler)
    consumer = await acquire(session, Cursor(topic, group, handler, partition))
    assert consumer is not None, "the cursor is another session's"
    return Member(session, consumer)


async def acquire(session: Session, cursor: Cursor) -> Consumer | None:
    """Take an ordered cursor, by its lease or as it is assigned; None where it is another's."""
    if isinstance(session, Leases):
        return await session.acquire(cursor)
    assert cursor.handler is not None
    partitions = await session.count_partitions(cursor.topic)
    assert partitions is not None
    cursors = session.assigned(cursor.topic, cursor.group, cursor.handler, partitions, lambda unread: None)
    taken = {}
    while (assigned := await cursors.take()) is not None:
        taken[assigned.partition] = assigned.consumer
    return taken.get(cursor.partition)


async def take(consumer: Consumer, max_records: int = 1_000) -> Sequence[Record]:
    """Return what one poll gives without waiting."""
    return (await consumer.poll(max_records=max_records, timeout_ms=0)).records


async def take_all(consumer: Consumer, max_records: int = 1_000) -> list[Record]:
    """Return what polls give until one gives nothing new (an ordered cursor's due records come again)."""
    records: dict[int, Record] = {}
    while fresh := [record for record in await take(consumer, max_records) if record.offset not in records]:
        records.update((record.offset, record) for record in fresh)
    return list(records.values())


async def take_batch(consumer: Consumer, max_records: int = 1_000) -> Batch:
    """Return one poll's batch without waiting."""
    return await consumer.poll(max_records=max_records, timeout_ms=0)


def state_changes(state: Mapping[StateKey, bytes | None]) -> EntryChanges:
    """Return values of `ctx.state` as a commit has them."""
    return EntryChanges((), {STATE: {state_key(*place): value for place, value in state.items()}} if state else {})


async def read_state(consumer: Consumer, keys: Iterable[bytes]) -> dict[bytes, dict[str, bytes]]:
    """Return the values of record keys that a cursor remembers, by name."""
    wanted, found = set(keys), dict[bytes, dict[str, bytes]]()
    for stored_key, value in await consumer.scan_entries(STATE, max_entries=100_000):
        key, name = split_state_key(stored_key)
        if key in wanted:
            found.setdefault(key, {})[name] = value
    return found


def settle(
    done: Iterable[Record] = (),
    *,
    retries: Sequence[Retry] = (),
    position: int | None = None,
    dead: Sequence[DeadLetter] = (),
    emits: Sequence[Emit] = (),
    state: Mapping[StateKey, bytes | None] | None = None,
    whole: bool = False,
) -> Commit:
    """Return a commit with an id of its own; the records of `dead` are done as well."""
    finished = [*offsets(done), *(letter.record.offset for letter in dead)]
    commit_id = next(_commit_ids).to_bytes(16, "big")
    return Commit(commit_id, finished, retries, position, dead, emits, whole, state_changes(state or {}))


def retry(record: Record, *, due_ms: int | None, attempts: int = 1, error: str = "ValueError: no") -> Retry:
    """Return `record` as one to retry, or (`due_ms` None) to hold back."""
    return Retry(record.offset, record.raw_key, attempts, due_ms, error)


def letter(
    record: Record, *, handler: str = HANDLER, group: str = GROUP, attempts: int = 5, at_ms: int = 1
) -> DeadLetter:
    """Return `record` as a dead letter."""
    return DeadLetter(record, group, handler, attempts, "ValueError", "no such network", "Traceback: line 1", at_ms)


def emit(source: Record, value: str, topic: str = "alerts", key: str | None = None) -> Emit:
    """Return an emit of the record's handler."""
    return Emit(source.offset, topic, new(value, key))


async def read_all(broker: Broker, topic: str, partition: int = 0) -> list[Record]:
    """Return a partition's records; empty where there is no such topic."""
    if topic not in {info.topic for info in await broker.list_topics()}:
        return []
    return list(await broker.read(topic, partition, offset=0, max_records=100_000))


async def read_cursor(broker: Broker, cursor: Cursor) -> CursorInfo:
    """Return how far `cursor` is."""
    listed = await broker.list_cursors(group=cursor.group, topic=cursor.topic)
    found = [info for info in listed if info.cursor == cursor]
    assert len(found) == 1, f"{cursor} is listed {len(found)} times"
    return found[0]


async def read_lag(broker: Broker, cursor: Cursor) -> int | None:
    """Return the cursor's lag."""
    return (await read_cursor(broker, cursor)).lag

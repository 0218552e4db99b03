"""The ordered mode: one owner at a time reads a cursor from its position and commits under a lease.

Checks of a commit, in order: the lease (FENCED), the last commit id (a resent commit: success), the
sequence (STALE), types and sizes; then the writes, in one script.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pspf import faults
from pspf.connectors.contract.cursors import Beside, Consumer
from pspf.connectors.contract.values import Lease
from pspf.connectors.letters import check_size
from pspf.connectors.suspicion import Suspicion, is_within_batch
from pspf.connectors.valkey.connection.blocking_reads import ReadSize
from pspf.connectors.valkey.connection.failures import ReplyTooLarge
from pspf.connectors.valkey.connection.scripts import Argument, ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume import entries
from pspf.connectors.valkey.consume.after_commit import after_commit
from pspf.connectors.valkey.consume.commits import Effects, pack_waiting, run_commit
from pspf.connectors.valkey.consume.liveness import Member
from pspf.connectors.valkey.consume.member_signal import ring
from pspf.connectors.valkey.consume.refunds import refund
from pspf.connectors.valkey.consume.replayed import read_replayed, unpack_replayed
from pspf.connectors.valkey.log.fields import decode_entries, format_entry_id, parse_entry_id
from pspf.connectors.valkey.log.keys import CursorKeys, escape
from pspf.errors import CommitFenced, CommitStale
from pspf.loggers import get_logger
from pspf.records import Batch, Commit, Cursor, EntryPlace, Record

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

logger = get_logger(__name__)

_LOOK: Final = load_script("look_ordered")
_COMMIT: Final = load_script("commit_ordered", "effects", "entries")
_FORGET: Final = load_script("forget_deleted")
_HOLD: Final = load_script("hold_ordered")
_AGAIN_MS: Final = 100
"""How long what was given as due is not given again, unless a commit comes before."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease and what goes with it. `passed` counts the records before the position, None where unknown."""

    token: bytes
    sequence: int
    passed: int | None
    lease: Lease
    suspicion: Suspicion | None


@dataclass(frozen=True, slots=True)
class Draft:
    """What a commit says of one cursor.

    These are the script's arguments, the rest of its suspicion, and how many new records it passes.
    """

    arguments: Sequence[Argument]
    rest: Suspicion | None
    number: int


def marker_group(cursor: Cursor) -> bytes:
    """Return the consumer group that marks the stream which an ordered cursor counts in."""
    return f"{cursor.group}/{escape(cursor.handler or '')}".encode()


class OrderedConsumer(Consumer):
    """An ordered cursor under a lease."""

    is_remote = True

    def __init__(
        self, core: "Core", member: Member, cursor: Cursor, keys: CursorKeys, grant: Grant, bells: Sequence[bytes]
    ) -> None:
        self.cursor = cursor
        self.lease: Lease | None = grant.lease
        self.is_held = True
        """Whether the lease is this consumer's, as far as it knows: not given back, and not another's."""
        self._core = core
        self._member = member
        self._keys = keys
        self._bells = bells
        self._group = marker_group(cursor)
        self._epoch = grant.lease.epoch
        self.token = grant.token
        self._sequence = grant.sequence
        self._committed: bytes | None = None
        """The id of the last commit that is known to have taken effect."""
        self._passed = grant.passed
        self._suspicion = grant.suspicion
        self._read_position = grant.lease.position
        self._new: list[int] = []
        """The offsets of the new records that were read and are not before the committed position."""
        self._waiting = {retry.offset for retry in grant.lease.held}
        """What may be held back or wait for a retry."""
        self._is_at_end = False
        """Whether the last read of new records came to the end: it gave less than was asked for."""
        self._has_given_due = False
        self._is_committing = False
        """Whether a commit is under way, or its outcome not known."""
        self._reads = core.open_reads(keys.partition.stream, member.lanes)
        self._size = ReadSize()

    # Reading

    @property
    def _commits(self) -> Lane:
        """The lane for commits of this cursor."""
        return self._member.lane_for(self._keys.partition)

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        await self._core.tick()
        faults.reach("read.sent")
        batch = await self._read(max_records, timeout_ms, retries_only)
        faults.reach("read.reply")
        return batch

    async def _read(self, max_records: int, timeout_ms: int, retries_only: bool) -> Batch:
        deadline = self._reads.begin(timeout_ms)
        while True:
            suspicion = self._suspicion
            limit = max_records if suspicion is None else min(max_records, suspicion.limit)
            records: list[Record] = []
            if self._reads.is_look_due or timeout_ms == 0 or retries_only:
                records = await self._read_due(limit)
            block_ms = self._reads.block_ms(deadline) if timeout_ms and not records else 0
            if not retries_only and len(records) < limit:
                records += await self._read_new(limit - len(records), block_ms)
            elif block_ms:
                await self._reads.pause(block_ms)
            if records:
                return self._make_batch(records, suspicion)
            if self._reads.is_over(deadline):
                return Batch((), self._read_position)

    def _make_batch(self, records: Sequence[Record], suspicion: Suspicion | None) -> Batch:
        if suspicion is None:
            return Batch(records, self._read_position)
        is_charged = suspicion.offsets == (records[0].offset,) and len(records) == 1
        return Batch(records, self._read_position, suspect=True, crashes=suspicion.crashes if is_charged else 0)

    async def _read_due(self, limit: int) -> list[Record]:
        """Return the records whose retry is due.

        Raises:
            CommitFenced: The lease is another worker's.
            CommitStale: The cursor was moved under its owner, or the stream deleted, or a record that waited.
        """
        keys = self._keys
        oldest = self._sequence
        reply = await self._reads.look(
            _LOOK,
            [keys.partition.stream, keys.meta, keys.due, keys.retry],
            [self._core.now(), self._group, self.token, limit],
        )
        if reply[0] == b"FENCED":
            raise self._fenced()
        if reply[0] == b"GONE":
            raise CommitStale(f"{self.cursor}: its group or its stream was deleted")
        wait_ms, sequence, *rows = reply
        self._reads.looked(wait_ms)
        if not oldest <= int(sequence) <= self._sequence + self._is_committing:
            raise CommitStale(f"{self.cursor}: moved to sequence {int(sequence)} while {self._sequence} was in hand")
        due = {parse_entry_id(raw_id): int(attempts) for raw_id, attempts in zip(rows[::2], rows[1::2], strict=True)}
        self._has_given_due = bool(due)
        if not due:
            return []
        self._reads.looked(_AGAIN_MS)  # what of it the next commit leaves is still due
        stream = keys.partition.stream
        found = await self._reads.lane.call_many([("XRANGE", stream, raw_id, raw_id) for raw_id in rows[::2]])
        entries = [entry for some in found for entry in self._reads.lane.check(some, "XRANGE")]
        records = decode_entries(self.cursor.topic, self.cursor.partition, entries)
        if len(records) < len(due):
            records = await self._with_replayed(records, due.keys() - {record.offset for record in records})
        return [record._replace(attempts=due[record.offset]) for record in records]

    async def _with_replayed(self, records: list[Record], offsets: Iterable[int]) -> list[Record]:
        """Return the records of the stream and the replayed ones at `offsets`, in order; forget what is neither."""
        ids = {format_entry_id(offset): offset for offset in offsets}
        found = await read_replayed(self._reads.lane, self._keys, list(ids))
        if len(found) < len(ids):
            await self._forget_deleted(ids[raw_id] for raw_id in ids.keys() - found.keys())
        topic, partition = self.cursor.topic, self.cursor.partition
        records += [unpack_replayed(topic, partition, ids[raw_id], packed) for raw_id, packed in found.items()]
        return sorted(records, key=lambda record: record.offset)

    async def _forget_deleted(self, offsets: Iterable[int]) -> None:
        keys = self._keys
        ids = [format_entry_id(offset) for offset in sorted(offsets)]
        where = [keys.partition.stream, keys.meta, keys.due, keys.retry]
        if await self._commits.run(_FORGET, where, [self.token, *ids]) > 0:
            raise CommitStale(f"{self.cursor}: {len(ids)} records that waited for a retry were deleted")

    async def _read_new(self, limit: int, block_ms: int) -> list[Record]:
        stream = self._keys.partition.stream
        before = format_entry_id(max(0, self._read_position - 1))
        while True:
            count = self._size.of(limit)
            try:
                reply = await self._reads.read(
                    ("XREAD", "COUNT", count), ("STREAMS", stream, before), block_ms, most_bytes=self._size.room(count)
                )
                break
            except ReplyTooLarge:
                self._size.shrink(count)
                block_ms = 0
        if not reply:
            return []
        entries = reply[0][1]
        self._is_at_end = len(entries) < count
        records = decode_entries(self.cursor.topic, self.cursor.partition, entries)
        self._new += [record[2] for record in records]
        self._read_position = parse_entry_id(entries[-1][0]) + 1
        return records

    # Committing

    async def commit(self, commit: Commit) -> Sequence[int]:
        await self._commit([(self, commit)])
        return ()

    async def commit_jointly(self, commit: Commit, beside: Sequence[Beside]) -> None:
        parts = [(self, commit)]
        for consumer, part in beside:
            assert isinstance(consumer, OrderedConsumer), "a consumer of this broker's, by take_beside"
            parts.append((consumer, replace(part, commit_id=commit.commit_id)))
        await self._commit(parts)

    async def _commit(self, parts: "Sequence[tuple[OrderedConsumer, Commit]]") -> None:
        """Commit all parts in one script; entries and effects are the first one's, which is this consumer's."""
        for _, part in parts:
            check_size(part, self._core.limits)
        commit = parts[0][1]
        drafts = [consumer._draft(part) for consumer, part in parts]
        packed = entries.pack_entries(commit, self._keys)
        of_cursors = [argument for draft in drafts for argument in draft.arguments]
        script_keys = [self._keys.spaces, *[key for consumer, _ in parts for key in consumer._script_keys]]

        def make_call(effects: Effects) -> ScriptCall:
            counts = (len(parts), len(effects.topics), len(effects.arguments))
            head = (self._core.now(), commit.commit_id, *counts, *packed.head)
            return ScriptCall(
                _COMMIT,
                [*script_keys, *packed.keys, *effects.keys],
                [*head, *of_cursors, *packed.arguments, *effects.arguments],
            )

        late = [(consumer.cursor, part.late) for consumer, part in parts[1:]] if len(parts) > 1 else ()
        faults.reach("commit.sent")
        for consumer, _ in parts:
            consumer._is_committing = True
        reply = await run_commit(self._core, self._commits, self.cursor, commit, None, make_call, late)
        faults.reach("commit.reply")
        for consumer, _ in parts:
            consumer._is_committing = False
        if reply[0] != b"OK":
            await self._refuse(reply, [consumer for consumer, _ in parts])
        for number, ((consumer, part), draft) in enumerate(zip(parts, drafts, strict=True)):
            consumer._note(part, draft, *reply[3 * number + 2 : 3 * number + 4])
        for consumer, part in parts:
            await after_commit(
                self._core,
                self._commits,
                consumer._reads,
                consumer.cursor,
                part,
                is_more_due=consumer._has_given_due,
            )

    @property
    def meta(self) -> bytes:
        """The key of the cursor's meta."""
        return self._keys.meta

    @property
    def _script_keys(self) -> tuple[bytes, ...]:
        keys = self._keys
        return keys.partition.stream, keys.meta, keys.due, keys.retry, keys.partition.meta

    def _draft(self, commit: Commit) -> "Draft":
        """Return what the script is told of this cursor."""
        done, retries = pack_waiting(commit, self._waiting)
        rest = None if self._suspicion is None else self._suspicion.after_commit(commit)
        number = 0 if commit.position is None else bisect_left(self._new, commit.position)
        passed = None if self._passed is None else self._passed + number
        arguments: list[Argument] = [
            self._group,
            self.token,
            self._epoch,
            self._sequence,
            *_position_arguments(commit.position),
            "" if passed is None else passed,
            *(("=", "=") if is_within_batch(commit) else _at_rest(rest)),
            "1" if self._is_at_end else "",
            len(done),
            len(commit.retries),
            *done,
            *retries,
        ]
        return Draft(arguments, rest, number)

    def _note(self, commit: Commit, draft: "Draft", passed: bytes, removed: int) -> None:
        """Take in a commit that took effect."""
        if commit.commit_id == self._committed:
            return
        self._committed = commit.commit_id
        self._sequence += 1  # what moved the cursor since is not counted: the next commit is STALE
        self._suspicion = draft.rest
        if commit.position is not None:
            self._passed = int(passed) if passed else None
        if removed:
            logger.error("%s: %d records were removed from outside before they were read", self.cursor, removed)
        del self._new[: draft.number]
        self._waiting.difference_update(commit.done)
        self._waiting.update([retry.offset for retry in commit.retries])

    async def _refuse(self, reply: Sequence[Any], consumers: "Sequence[OrderedConsumer]") -> None:
        """Raise CommitFenced or CommitStale: a commit did not take effect, because of one of its cursors."""
        status, number = reply[0], int(reply[1])
        which = consumers[number - 1]
        if status == b"FENCED":
            for each in consumers:
                suspicion = each._suspicion
                if suspicion is not None and len(suspicion.offsets) == 1 and suspicion.is_alone:
                    await refund(self._commits, each.cursor, each._keys.meta, None, suspicion.offsets[0])
            raise which._fenced()
        if status == b"GONE":
            raise CommitStale(f"{which.cursor}: its group or its stream was deleted; nothing was committed")
        raise CommitStale(f"{which.cursor}: moved to sequence {int(reply[2])} while {which._sequence} was in hand")

    def _fenced(self) -> CommitFenced:
        self.is_held = False
        return CommitFenced(f"{self.cursor}: the lease of epoch {self._epoch} is lost; nothing was committed")

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        suspicion = self._suspicion
        if suspicion is None:
            return  # what was read ahead as suspect is past the suspicion by now
        intent = suspicion.while_running(offsets, is_alone=is_alone)
        running = b" ".join([format_entry_id(offset) for offset in offsets])
        fields = (*_fields(intent), "crashes", intent.crashes, "intent", running, "beside", "" if is_alone else "1")
        if not await self._commits.run(_HOLD, [self._keys.meta], [self.token, *fields]):
            raise self._fenced()
        self._suspicion = intent

    async def read_progress(self) -> bytes | None:
        return await entries.read_progress(self._commits, self._keys)

    async def list_namespaces(self) -> Sequence[int]:
        return await entries.list_namespaces(self._commits, self._keys)

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        return await entries.read_entries(self._commits, self._keys, places) if places else {}

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        return await entries.scan_entries(self._commits, self._keys, namespace, after, max_entries)

    # Ending

    async def release(self) -> None:
        faults.reach("release")
        fields = ("session", "", "token", "", "clean", "1", "crashes", "0", "intent", "", *_fields(self._suspicion))
        if await self._commits.run(_HOLD, [self._keys.meta], [self.token, *fields]):
            await ring(self._member.lanes, self._bells)
        self.is_held = False
        await self._reads.close()


def _position_arguments(position: int | None) -> tuple[Argument, Argument]:
    if position is None:
        return "", ""
    return format_entry_id(position), format_entry_id(max(0, position - 1))


def _at_rest(suspicion: Suspicion | None) -> tuple[Argument, Argument]:
    """Return a suspicion as stored while nothing of it runs: a crash now charges nobody."""
    return ("", "") if suspicion is None else (suspicion.limit, suspicion.left)


def _fields(suspicion: Suspicion | None) -> tuple[Argument, ...]:
    limit, left = _at_rest(suspicion)
    return "limit", limit, "left", left

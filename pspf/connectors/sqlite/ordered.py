"""The ordered mode: one owner at a time reads a cursor from its position and commits under a lease.

Checks of a commit, in order: the lease (FENCED), the last commit id (a resent commit: success), the
sequence (STALE), sizes; then the writes.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pspf import faults
from pspf.connectors.contract.cursors import Beside, Consumer
from pspf.connectors.contract.values import Lease
from pspf.connectors.letters import check_size
from pspf.connectors.sqlite import entries
from pspf.connectors.sqlite.effects import Effects, forget_retries
from pspf.connectors.sqlite.endings import CLEAN, SILENT
from pspf.connectors.sqlite.engine.base import MEMBERS, Engine, Nothing, Poll
from pspf.connectors.sqlite.entry_log import Pool
from pspf.connectors.sqlite.log import read_new
from pspf.connectors.sqlite.membership import Membership
from pspf.connectors.sqlite.pending import forget_removed
from pspf.connectors.sqlite.replayed import read_waiting
from pspf.connectors.sqlite.row_writing import OwnLog
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.suspicion import Suspicion, is_within_batch
from pspf.errors import CommitFenced, CommitStale
from pspf.loggers import get_logger
from pspf.records import Batch, Commit, Cursor, EntryChanges, EntryPlace, Record, Retry, offset_of

logger = get_logger(__name__)

_UNKNOWN_BATCH: Final = 1_000


def acquire(
    storage: Storage, membership: Membership, cursor: Cursor, *, home: "OrderedConsumer | None" = None
) -> "Grant | None":
    """Take the lease of a cursor, where it is free; the caller holds a write transaction.

    Beside a `home` it is taken from whoever holds it.

    Raises:
        CommitFenced: `home` is another worker's by now.
    """
    if home is not None:
        home.check_lease(storage)
    row = storage.row(
        "SELECT c.cursor_id, c.partition_id, max(c.position, p.first_offset), c.position, c.sequence, c.epoch,"
        " c.is_clean, c.intent, c.session, EXISTS (SELECT 1 FROM sessions s WHERE s.session = c.session)"
        " FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)"
        " WHERE t.topic = ? AND p.partition = ? AND c.group_name = ? AND c.handler = ?",
        (cursor.topic, cursor.partition, cursor.group, cursor.handler),
    )
    if row is None:
        return None
    cursor_id, partition_id, position, stored, sequence, epoch, is_clean, intent, session, is_alive = row
    is_own = session == membership.session
    is_taken = session is not None and is_alive and not is_own
    if is_taken and home is None:
        return None
    if position > stored:
        logger.error("%s: %d records were trimmed before they were read", cursor, position - stored)
    membership.ensure(storage)
    suspicion = Suspicion.parse(intent)
    if is_clean != CLEAN and not is_own and not is_taken:
        before = suspicion or Suspicion(_UNKNOWN_BATCH, _UNKNOWN_BATCH)
        suspicion = before.after_silence() if is_clean == SILENT else before.after_crash()
    elif suspicion is not None:
        suspicion = Suspicion(suspicion.limit, suspicion.left)
    token = secrets.token_bytes(8)
    storage.run(
        "UPDATE cursors SET epoch = ?, token = ?, session = ?, is_clean = 0, position = ?, intent = ?"
        " WHERE cursor_id = ?",
        (epoch + 1, token, membership.session, position, _at_rest(suspicion), cursor_id),
    )
    held = tuple(
        Retry(*row)
        for row in storage.rows(
            "SELECT offset, key, attempts, due_ms, error FROM retries WHERE cursor_id = ? ORDER BY offset", (cursor_id,)
        )
    )
    return Grant(
        cursor_id, partition_id, sequence, token, Lease(epoch + 1, position, held, suspicion is not None), suspicion
    )


def _at_rest(suspicion: Suspicion | None) -> str | None:
    """Return a suspicion as stored while nothing of it runs: a crash now charges nobody."""
    return None if suspicion is None else Suspicion(suspicion.limit, suspicion.left).format()


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease and what goes with it."""

    cursor_id: int
    partition_id: int
    sequence: int
    token: bytes
    lease: Lease
    suspicion: Suspicion | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a look found: records that are due and no more in the log."""

    offsets: Sequence[int]


class OrderedConsumer(Consumer):
    """An ordered cursor under a lease."""

    def __init__(self, engine: Engine, effects: Effects, cursor: Cursor, grant: Grant, pool: Pool) -> None:
        self.cursor = cursor
        self.lease: Lease | None = grant.lease
        self._engine = engine
        self._effects = effects
        self._cursor_id = grant.cursor_id
        self._partition_id = grant.partition_id
        self._epoch = grant.lease.epoch
        self._token = grant.token
        self._sequence = grant.sequence
        self._committed: bytes | None = None
        """The id of the last commit that is known to have taken effect."""
        self._suspicion = grant.suspicion
        self._read_position = grant.lease.position
        self._pool = pool
        self._own_log: OwnLog | None = None
        """What the log of its entries says; read by the first who needs it, on the engine's thread."""
        self._unlogged: tuple[EntryChanges, int] | None = None
        """What the last commit did to them, and its size in the log: known to be there, not in the overlay yet."""
        self._is_log_in_doubt = False
        """Whether a commit has changed the log, or written it as rows, and its outcome is not known."""

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        faults.reach("read.sent")
        found = await self._engine.poll(
            Poll(self._partition_id, lambda storage: self._look(storage, max_records, retries_only), None, timeout_ms)
        )
        faults.reach("read.reply")
        if isinstance(found, Nothing):
            return Batch((), self._read_position)
        if isinstance(found, Removed):
            await self._engine.write(lambda storage: self._forget(storage, found.offsets))
            raise CommitStale(f"{self.cursor}: {len(found.offsets)} records that waited here were deleted")
        batch: Batch = found
        self._read_position = batch.end
        return batch

    def check_lease(self, storage: Storage) -> None:
        """Raise CommitFenced where it is another's."""
        row = storage.row("SELECT token FROM cursors WHERE cursor_id = ?", (self._cursor_id,))
        if row is None or row[0] != self._token:
            raise CommitFenced(f"{self.cursor}: the lease of epoch {self._epoch} is lost")

    def _forget(self, storage: Storage, offsets: Sequence[int]) -> None:
        self.check_lease(storage)
        forget_removed(storage, self._engine, self._partition_id, offsets)

    def _look(self, storage: Storage, max_records: int, retries_only: bool) -> Nothing | Removed | Batch:
        row = storage.row(
            "SELECT c.token, p.next_offset, EXISTS (SELECT 1 FROM retries r WHERE r.cursor_id = c.cursor_id)"
            " FROM cursors c JOIN partitions p USING (partition_id) WHERE c.cursor_id = ?",
            (self._cursor_id,),
        )
        if row is None or row[0] != self._token:
            raise CommitFenced(f"{self.cursor}: the lease of epoch {self._epoch} is lost")
        suspicion = self._suspicion
        limit = max_records if suspicion is None else min(max_records, suspicion.limit)
        due, due_ms = self._due(storage, limit) if row[2] else ({}, None)
        records = self._read_due(storage, due)
        if len(records) < len(due):
            return Removed(sorted(due.keys() - set(map(offset_of, records))))
        end, size_bytes = self._read_position, None
        if len(records) < limit and end < row[1] and not retries_only:
            limit -= len(records)
            new, new_bytes = read_new(
                storage, self.cursor.topic, self._partition_id, self.cursor.partition, end, row[1], limit
            )
            size_bytes = None if records else new_bytes
            end = new[-1].offset + 1 if new else row[1]
            records += new
        if not records:
            self._read_position = end
            return Nothing(due_ms)
        if suspicion is None:
            return Batch(records, end, size_bytes=size_bytes)
        is_charged = suspicion.offsets == (records[0].offset,) and len(records) == 1
        return Batch(records, end, suspect=True, crashes=suspicion.crashes if is_charged else 0)

    def _due(self, storage: Storage, limit: int) -> tuple[dict[int, int], int | None]:
        now_ms = self._engine.clock.now_ms()
        rows = storage.rows(
            "SELECT offset, attempts FROM retries WHERE cursor_id = ? AND due_ms <= ? ORDER BY offset LIMIT ?",
            (self._cursor_id, now_ms, limit),
        )
        later = storage.row(
            "SELECT min(due_ms) FROM retries WHERE cursor_id = ? AND due_ms > ?", (self._cursor_id, now_ms)
        )
        return dict(rows), None if later is None else later[0]

    def _read_due(self, storage: Storage, due: dict[int, int]) -> list[Record]:
        if not due:
            return []
        return read_waiting(storage, self.cursor, self._cursor_id, self._partition_id, due)

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
        """Commit all parts in one transaction: each is checked before the first write."""
        for _, commit in parts:
            check_size(commit, self._engine.limits)

        def apply(storage: Storage) -> Sequence[int | None]:
            sequences = [consumer._check(storage, commit) for consumer, commit in parts]
            return [
                None if sequence is None else consumer._write(storage, commit, sequence)
                for (consumer, commit), sequence in zip(parts, sequences, strict=True)
            ]

        logged = await self._engine.write(apply)
        for (consumer, commit), logged_bytes in zip(parts, logged, strict=True):
            consumer._note(commit, logged_bytes)

    def _note(self, commit: Commit, logged_bytes: int | None) -> None:
        """Take in a commit that took effect."""
        if commit.commit_id != self._committed:  # what moved the cursor since is not counted: the next commit is STALE
            self._committed = commit.commit_id
            self._sequence += 1
            if self._suspicion is not None:
                self._suspicion = self._suspicion.after_commit(commit)
        if commit.changes and logged_bytes is not None:
            self._unlogged = commit.changes, logged_bytes

    def _check(self, storage: Storage, commit: Commit) -> int | None:
        """Return the sequence that a commit is built on, None where it was sent before and has taken effect."""
        row = storage.row(
            "SELECT token, epoch, commit_id, sequence FROM cursors WHERE cursor_id = ?", (self._cursor_id,)
        )
        if row is None or row[0] != self._token or row[1] != self._epoch:
            raise CommitFenced(f"{self.cursor}: the lease of epoch {self._epoch} is lost; nothing was committed")
        sequence: int = row[3]
        if row[2] == commit.commit_id:  # sent again: it has taken effect, and the log is read again
            self._own_log = None
            return None
        if sequence != self._sequence:
            raise CommitStale(f"{self.cursor}: moved to sequence {sequence} while {self._sequence} was in hand")
        return sequence

    def _write(self, storage: Storage, commit: Commit, sequence: int) -> int | None:
        """Write a commit that was checked; return what its entries take in their log."""
        suspicion = self._suspicion
        rest = None if suspicion is None else suspicion.after_commit(commit)
        intent = rest.format() if rest is not None and is_within_batch(commit) else _at_rest(rest)
        storage.run(
            "UPDATE cursors SET sequence = sequence + 1, commit_id = ?, position = coalesce(?, position), intent = ?,"
            " last_commit_ms = ? WHERE cursor_id = ?",
            (commit.commit_id, commit.position, intent, self._engine.clock.now_ms(), self._cursor_id),
        )
        self._write_retries(storage, commit)
        logged_bytes = self._write_entries(storage, commit, sequence + 1)
        if commit.late:
            self._effects.write_late(storage, self.cursor, commit.late)
        self._effects.write(storage, self._partition_id, commit, ordered=True)
        return logged_bytes

    def _write_entries(self, storage: Storage, commit: Commit, number: int) -> int | None:
        if commit.progress is not None:
            entries.write_progress(storage, self._cursor_id, commit.progress)
        if not commit.changes:
            return 0
        log = self._log(storage)
        self._is_log_in_doubt = True
        self._engine.after_commit.append(self._end_doubt)
        return entries.write_entries(storage, self._cursor_id, number, log, commit.changes)

    def _end_doubt(self) -> None:
        self._is_log_in_doubt = False

    def _log(self, storage: Storage) -> OwnLog:
        """Return what the log of the entries says, the last commit included. On the engine's thread."""
        unlogged, self._unlogged = self._unlogged, None
        if self._own_log is None or self._is_log_in_doubt:
            self._is_log_in_doubt = False
            self._own_log = OwnLog(entries.load(storage, self._cursor_id, self._pool))
        elif unlogged is not None:
            self._own_log.note(*unlogged)
        return self._own_log

    def _write_retries(self, storage: Storage, commit: Commit) -> None:
        if storage.row("SELECT 1 FROM retries WHERE cursor_id = ? LIMIT 1", (self._cursor_id,)) is not None:
            forget_retries(storage, self._cursor_id, commit.done)
        rows = [(self._cursor_id, r.offset, r.key, r.attempts, r.due_ms, r.error) for r in commit.retries]
        storage.insert("retries", 6, rows, verb="INSERT OR REPLACE")
        if rows:
            self._engine.grown.add(self._partition_id)  # the next read may be waiting already

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        suspicion = self._suspicion
        if suspicion is None:
            return  # what was read ahead as suspect is past the suspicion by now
        intent = suspicion.while_running(offsets, is_alone=is_alone)

        def mark(storage: Storage) -> None:
            changed = storage.run(
                "UPDATE cursors SET intent = ? WHERE cursor_id = ? AND token = ?",
                (intent.format(), self._cursor_id, self._token),
            )
            if not changed:
                raise CommitFenced(f"{self.cursor}: the lease of epoch {self._epoch} is lost")

        await self._engine.write(mark, durable=False)
        self._suspicion = intent

    async def read_progress(self) -> bytes | None:
        return await self._engine.read(lambda storage: entries.read_progress(storage, self._cursor_id))

    async def list_namespaces(self) -> Sequence[int]:
        return await self._engine.read(
            lambda storage: entries.list_namespaces(storage, self._cursor_id, self._log(storage).overlay)
        )

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        return await self._engine.read(
            lambda storage: entries.read_entries(storage, self._cursor_id, self._log(storage).overlay, places)
        )

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        return await self._engine.read(
            lambda storage: entries.scan_entries(
                storage, self._cursor_id, self._log(storage).overlay, namespace, after, max_entries
            )
        )

    async def release(self) -> None:
        faults.reach("release")

        def give_back(storage: Storage) -> None:
            changed = storage.run(
                "UPDATE cursors SET session = NULL, token = NULL, is_clean = 1, intent = ?"
                " WHERE cursor_id = ? AND token = ?",
                (_at_rest(self._suspicion), self._cursor_id, self._token),
            )
            if changed:
                self._engine.grown |= {self._partition_id, MEMBERS}
            self._own_log = self._unlogged = None

        await self._engine.write(give_back, durable=False)

"""The shared mode: workers of a group claim ranges of a partition; a commit finishes what it claimed.

The gate of a commit is each record's own claim: a consumer that lost it writes nothing for that record.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apsw

from pspf import faults
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.values import Lease
from pspf.connectors.letters import check_size
from pspf.connectors.sqlite.claims import Outstanding, Run, runs
from pspf.connectors.sqlite.effects import Effects, forget_retries
from pspf.connectors.sqlite.engine.base import Engine, Nothing, Poll
from pspf.connectors.sqlite.log import read_new, read_range
from pspf.connectors.sqlite.membership import Membership
from pspf.connectors.sqlite.replayed import read_waiting, with_replayed
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import CommitFenced, StateUnavailable
from pspf.records import Batch, Commit, Cursor, Record, offset_of


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to take: records given back or of the dead, due retries, new ones from `position` to `end`."""

    is_orphaned: bool
    is_due: bool
    is_unread: bool
    position: int
    end: int


class SharedConsumer(Consumer):
    """A shared cursor, consumed beside others."""

    def __init__(
        self,
        engine: Engine,
        effects: Effects,
        membership: Membership,
        cursor: Cursor,
        cursor_id: int,
        partition_id: int,
    ) -> None:
        self.cursor = cursor
        self.lease: Lease | None = None
        self._engine = engine
        self._effects = effects
        self._membership = membership
        self._cursor_id = cursor_id
        self._partition_id = partition_id
        self._outstanding = Outstanding()
        """What we hold, as committed. Touched on the engine's thread alone: a poll that waits may claim at any moment.
        """
        self._is_in_doubt = False
        """Whether something was claimed and its outcome is not known: the database may have failed at the commit."""
        self._is_behind = False
        self._is_first = True
        """Whether the last take found something; other workers may be faster, and each take queues all writers."""

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        faults.reach("read.sent")
        found = await self._engine.poll(
            Poll(
                self._partition_id,
                lambda storage: self._look_first(storage, retries_only),
                lambda storage: self._take(storage, max_records, retries_only),
                timeout_ms,
                lambda: self._is_first,
            )
        )
        faults.reach("read.reply")
        return Batch((), 0) if isinstance(found, Nothing) else found

    def _look_first(self, storage: Storage, retries_only: bool) -> "Nothing | Sight | bool":
        """Look, unless the take has to anyway: the last one was full, so that there is more, or failed."""
        return self._is_behind or self._is_in_doubt or self._look(storage, retries_only)

    def _look(self, storage: Storage, retries_only: bool) -> "Nothing | Sight":
        row = storage.row(
            "SELECT EXISTS (SELECT 1 FROM claims WHERE cursor_id = ?1 AND session IS NULL),"
            " (SELECT min(due_ms) FROM retries WHERE cursor_id = ?1 AND due_ms IS NOT NULL),"
            " max(c.position, p.first_offset), p.next_offset"
            " FROM cursors c JOIN partitions p USING (partition_id) WHERE c.cursor_id = ?1",
            (self._cursor_id,),
        )
        if row is None:
            raise CommitFenced(f"{self.cursor}: its group was deleted")
        is_orphaned, due_ms, position, end = row
        is_due = due_ms is not None and due_ms <= self._engine.clock.now_ms()
        is_unread = position < end and not retries_only
        return (
            Sight(bool(is_orphaned), is_due, is_unread, position, end)
            if is_orphaned or is_due or is_unread
            else Nothing(due_ms)
        )

    def _take(self, storage: Storage, max_records: int, retries_only: bool) -> Batch | Nothing:
        if self._is_in_doubt:
            self._give_back_unknown(storage)
        sight = self._look(storage, retries_only)  # again: another worker may have been first
        self._is_behind = False
        self._is_first = not isinstance(sight, Nothing)
        if isinstance(sight, Nothing):
            return sight
        self._membership.ensure(storage)
        self._is_in_doubt = True
        self._engine.after_commit.append(self._end_doubt)
        claim = self._membership.next_claim()
        records: list[Record] = []
        new: list[Record] = []
        size_bytes = 0
        if sight.is_orphaned:
            suspects = self._take_suspects(storage, claim, max_records)
            if suspects is not None:
                return suspects
            records += self._take_orphans(storage, claim, max_records)
        if sight.is_due and len(records) < max_records:
            records += self._take_due(storage, claim, max_records - len(records))
        if sight.is_unread and len(records) < max_records:
            new, size_bytes = self._take_new(storage, claim, sight, max_records - len(records))
            records += new
        if not records:  # what was there is gone from the log: what is behind it comes at once
            return Nothing(self._engine.clock.now_ms() + 1)
        self._is_behind = len(records) == max_records
        return Batch(records, records[-1].offset + 1, size_bytes=size_bytes if len(new) == len(records) else None)

    def _take_suspects(self, storage: Storage, claim: int, max_records: int) -> Batch | None:
        row = storage.row(
            "SELECT first, last, crashes FROM claims WHERE cursor_id = ? AND session IS NULL AND is_suspect = 1"
            " ORDER BY first LIMIT 1",
            (self._cursor_id,),
        )
        if row is None:
            return None
        first, last, crashes = row
        taken, rest = Run(claim, first, last).split(max_records)
        self._drop_claim(storage, first)
        if rest is not None:
            self._add_claim(storage, rest, None, is_suspect=True)
        records = self._read_claimed(storage, taken)
        self._claim(storage, records, claim, is_suspect=True, crashes=crashes)
        return Batch(records, taken.last + 1, suspect=True, crashes=crashes) if records else None

    def _take_orphans(self, storage: Storage, claim: int, max_records: int) -> list[Record]:
        taken: list[Record] = []
        for first, last in storage.rows(
            "SELECT first, last FROM claims WHERE cursor_id = ? AND session IS NULL ORDER BY first LIMIT ?",
            (self._cursor_id, max_records),
        ):
            left = max_records - len(taken)
            if left <= 0:
                break
            now, rest = Run(claim, first, last).split(left)
            self._drop_claim(storage, first)
            if rest is not None:
                self._add_claim(storage, rest, None)
            taken += self._read_claimed(storage, now)
        self._claim(storage, taken, claim)
        return taken

    def _take_due(self, storage: Storage, claim: int, limit: int) -> list[Record]:
        rows = storage.rows(
            "SELECT offset, attempts FROM retries WHERE cursor_id = ? AND due_ms <= ? ORDER BY due_ms, offset LIMIT ?",
            (self._cursor_id, self._engine.clock.now_ms(), limit),
        )
        if not rows:
            return []
        attempts: dict[int, int] = dict(rows)
        storage.run(
            "UPDATE retries SET due_ms = NULL WHERE cursor_id = ? AND offset IN (SELECT value FROM carray(?))",
            (self._cursor_id, apsw.carray(array("q", attempts))),
        )
        records = read_waiting(storage, self.cursor, self._cursor_id, self._partition_id, attempts)
        self._claim(storage, records, claim)
        gone = attempts.keys() - {record.offset for record in records}
        if gone:
            forget_retries(storage, self._cursor_id, list(gone))
        return records

    def _take_new(self, storage: Storage, claim: int, sight: Sight, limit: int) -> tuple[list[Record], int]:
        records, size_bytes = read_new(
            storage, self.cursor.topic, self._partition_id, self.cursor.partition, sight.position, sight.end, limit
        )
        after = records[-1].offset + 1 if records else sight.end
        storage.run("UPDATE cursors SET position = ? WHERE cursor_id = ?", (after, self._cursor_id))
        self._claim(storage, records, claim)
        return records, size_bytes

    def _read_claimed(self, storage: Storage, run: Run) -> list[Record]:
        first, last = run.first, run.last
        records = read_range(
            storage, self.cursor.topic, self._partition_id, self.cursor.partition, first, last + 1, last - first + 1
        )
        attempts: dict[int, int] = dict(
            storage.rows(
                "SELECT offset, attempts FROM retries WHERE cursor_id = ? AND offset BETWEEN ? AND ?",
                (self._cursor_id, first, last),
            )
        )
        if attempts:
            records = [record._replace(attempts=attempts.get(record.offset, 0)) for record in records]
            records = with_replayed(storage, self.cursor, self._cursor_id, records, attempts)
            forget_retries(storage, self._cursor_id, list(attempts.keys() - set(map(offset_of, records))))
        return records

    def _claim(
        self, storage: Storage, records: Sequence[Record], claim: int, *, is_suspect: bool = False, crashes: int = 0
    ) -> None:
        claimed = list(runs(list(map(offset_of, records)), claim))
        for run in claimed:
            self._add_claim(storage, run, self._membership.session, is_suspect=is_suspect, crashes=crashes)
        self._engine.after_commit.append(lambda: self._outstanding.add(claimed))

    def _give_back_unknown(self, storage: Storage) -> None:
        """Give back claims that are stored as ours and unknown to us."""
        known = array("q", (0, *self._outstanding.claims))  # no claim has the number 0; an empty array is refused
        storage.run(
            "UPDATE claims SET session = NULL, is_started = 0 WHERE cursor_id = ? AND session = ?"
            " AND claim NOT IN (SELECT value FROM carray(?))",
            (self._cursor_id, self._membership.session, apsw.carray(known)),
        )
        self._engine.after_commit.append(self._end_doubt)

    def _end_doubt(self) -> None:
        self._is_in_doubt = False

    def _add_claim(
        self,
        storage: Storage,
        run: Run,
        session: str | None,
        *,
        is_suspect: bool = False,
        crashes: int = 0,
    ) -> None:
        storage.run(
            "INSERT INTO claims (cursor_id, first, last, claim, session, claimed_ms, is_suspect, crashes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._cursor_id,
                run.first,
                run.last,
                run.claim,
                session,
                self._engine.clock.now_ms(),
                is_suspect,
                crashes,
            ),
        )

    def _drop_claim(self, storage: Storage, first: int) -> None:
        storage.run("DELETE FROM claims WHERE cursor_id = ? AND first = ?", (self._cursor_id, first))

    async def commit(self, commit: Commit) -> Sequence[int]:
        check_size(commit, self._engine.limits)
        if commit.changes:
            raise StateUnavailable(f"{self.cursor}: a shared cursor keeps no state")
        lost: frozenset[int] = await self._engine.write(lambda storage: self._apply(storage, commit))
        return sorted(lost)

    def _apply(self, storage: Storage, commit: Commit) -> frozenset[int]:
        offsets = _offsets(commit)
        wanted = list(self._outstanding.find(offsets))
        self._engine.after_commit.append(lambda: self._outstanding.forget(wanted))
        lost = frozenset(offset for run in wanted for offset in self._not_ours(storage, run))
        if lost and commit.whole:
            self._give_back(storage, {run.claim for run in wanted})
            return frozenset(offsets)
        for run in wanted:
            self._settle(storage, run)
        self._settle_retries(storage, commit, lost)
        now_ms = self._engine.clock.now_ms()
        storage.run("UPDATE cursors SET last_commit_ms = ? WHERE cursor_id = ?", (now_ms, self._cursor_id))
        self._effects.write(storage, self._partition_id, commit, lost, ordered=False)
        return lost

    def _overlaps(self, storage: Storage, run: Run) -> list[tuple[Run, bool, int]]:
        """Return the parts of the run's claim that overlap it, whether each is suspect, and how often it crashed."""
        return [
            (Run(run.claim, row[0], row[1]), bool(row[2]), row[3])
            for row in storage.rows(
                "SELECT first, last, is_suspect, crashes FROM claims"
                " WHERE cursor_id = ? AND first <= ? AND last >= ? AND session = ? AND claim = ?",
                (self._cursor_id, run.last, run.first, self._membership.session, run.claim),
            )
        ]

    def _not_ours(self, storage: Storage, run: Run) -> Iterator[int]:
        return run.missing_in([held for held, _, _ in self._overlaps(storage, run)])

    def _settle(self, storage: Storage, run: Run) -> None:
        """Take the run out of its claim; the rest of the claim stays."""
        for held, is_suspect, crashes in self._overlaps(storage, run):
            self._drop_claim(storage, held.first)
            for rest in held.without(run):
                self._add_claim(storage, rest, self._membership.session, is_suspect=is_suspect, crashes=crashes)

    def _settle_retries(self, storage: Storage, commit: Commit, lost: frozenset[int]) -> None:
        if storage.row("SELECT 1 FROM retries WHERE cursor_id = ? LIMIT 1", (self._cursor_id,)) is not None:
            forget_retries(storage, self._cursor_id, [offset for offset in commit.done if offset not in lost])
        rows = [
            (self._cursor_id, retry.offset, retry.key, retry.attempts, retry.due_ms, retry.error)
            for retry in commit.retries
            if retry.offset not in lost
        ]
        storage.insert("retries", 6, rows, verb="INSERT OR REPLACE")
        if rows:
            self._engine.grown.add(self._partition_id)  # another worker may be the one that waits for it

    def _give_back(self, storage: Storage, claims: Iterable[int]) -> None:
        for claim in claims:
            storage.run(
                "UPDATE claims SET session = NULL, is_started = 0 WHERE cursor_id = ? AND session = ? AND claim = ?",
                (self._cursor_id, self._membership.session, claim),
            )
        self._engine.grown.add(self._partition_id)

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        is_started = is_alone or len(offsets) > 1  # a range is halved in any case

        def mark(storage: Storage) -> None:
            for run in self._outstanding.find(sorted(offsets)):
                storage.run(
                    "UPDATE claims SET is_started = ? WHERE cursor_id = ? AND first <= ? AND last >= ? AND session = ?"
                    " AND claim = ?",
                    (is_started, self._cursor_id, run.last, run.first, self._membership.session, run.claim),
                )

        await self._engine.write(mark, durable=False)

    async def release(self) -> None:
        faults.reach("release")

        def give_back(storage: Storage) -> None:
            # Asked here and not before: a poll that was cancelled may have claimed since.
            self._give_back(storage, self._outstanding.claims)
            if self._is_in_doubt:
                self._give_back_unknown(storage)
            self._engine.after_commit.append(self._outstanding.clear)

        await self._engine.write(give_back, durable=False)


def _offsets(commit: Commit) -> list[int]:
    """Return the offsets that a commit settles, sorted."""
    return sorted([*commit.done, *[retry.offset for retry in commit.retries]])

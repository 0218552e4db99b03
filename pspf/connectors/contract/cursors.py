"""The consumer of one cursor: poll and commit."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from pspf.connectors.contract.capabilities import lacking
from pspf.connectors.contract.values import (
    Lease,
)
from pspf.errors import NotAvailable
from pspf.records import (
    Batch,
    Commit,
    Cursor,
    EntryPlace,
)

Beside = tuple["Consumer", Commit]
"""Another ordered cursor of a joint commit, and what becomes of its records."""


class Consumer(ABC):
    """One cursor in one worker's hands. Used by one task; at most one commit at a time.

    Shared mode: what a poll gives is pending on this worker until a commit finishes it.
    Ordered mode: the cursor is leased; records are read from its position on.
    """

    cursor: Cursor
    lease: Lease | None
    """None in shared mode."""
    is_remote: bool = False
    """Whether a poll is answered elsewhere, so that it is worth sending before a batch is handled."""

    @property
    def waiting_cursors(self) -> Sequence[Cursor]:
        """The cursors whose next records were read, and wait for those of a slower topic."""
        return ()

    def place_of(self, topic: str, offset: int) -> int:
        """Return what stands for the offset of a record in batches; below all of them where it is done for certain."""
        return offset

    @abstractmethod
    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        """Return records to handle, waiting at most `timeout_ms` for the first; empty after that.

        Records whose retry is due come first, then new ones in offset order. A batch of the shared
        mode is claimed: nobody else gets its records while this session lives. In ordered mode the
        next poll reads on behind this batch, committed or not, and a due record may come again
        until the commit that settles it: the caller skips what it knows to be settled.

        Raises:
            CommitFenced: The lease is another worker's.
        """

    @abstractmethod
    async def commit(self, commit: Commit) -> Sequence[int]:
        """Apply all of `commit`, or nothing of it; return the offsets that were not ours any more.

        Safe to call again with the same commit after an error: it takes effect once. In shared
        mode the effects of a record count only if this commit is the one that finishes it (or, with
        `whole`, if that is so for all of them); the others' offsets are returned. In ordered mode
        the result is empty.

        Raises:
            CommitFenced: The lease is another worker's; nothing was written.
            CommitStale: The cursor was moved under its owner; nothing was written.
            TooManyEffects: The commit is larger than the broker takes; nothing was written.
        """

    async def commit_jointly(self, commit: Commit, beside: "Sequence[Beside]") -> None:
        """Apply all of `commit` and of what is `beside` it, or nothing, as `commit` does of an ordered cursor.

        The cursors beside were taken by `Session.take_beside`. A part beside has `done`, `retries`, `position` and
        `late`; all else that a handler did is in `commit`, whose id counts for all parts.

        Raises:
            NotAvailable: The broker has no `joint_commits`, or the cursor is a shared one.
            CommitFenced, CommitStale, TooManyEffects: As in `commit`, of one of them.
        """
        raise lacking("joint_commits")

    @abstractmethod
    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        """Remember that these records of a suspect batch are about to run, in case they end the process.

        A single record is charged with a crash then. Without `is_alone` it is not, and its crashes stay what they
        are: others run beside it. May be called again while they run, where that changes. Without `crash_counts`
        nothing is remembered.
        """

    # Entries: what an operator keeps in an ordered cursor, `(namespace, key) -> bytes`, as commits left it

    async def read_progress(self) -> bytes | None:
        """Return the `OperatorProgress.stored` of the last commit that had one, None before the first.

        Raises:
            NotAvailable: The cursor is a shared one (as in all calls about entries).
        """
        raise self._has_no_entries()

    async def list_namespaces(self) -> Sequence[int]:
        """Return the namespaces that have entries, in order."""
        raise self._has_no_entries()

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        """Return the entries at places; what is not there is missing. One round trip."""
        raise self._has_no_entries()

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return the first (key, value) of a namespace behind the key `after`, in order of key; fewer at its end."""
        raise self._has_no_entries()

    def _has_no_entries(self) -> NotAvailable:
        return NotAvailable(f"{self.cursor}: state and windows are kept in ordered mode only")

    async def end_reads(self) -> None:  # noqa: B027 (most leave none)
        """End the reads that a poll has left under way; only `release` comes after it."""

    @abstractmethod
    async def release(self) -> None:
        """Give the cursor (ordered) or all pending records (shared) back at once, uncharged."""

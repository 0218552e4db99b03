"""Suspicion of records that may have ended an earlier owner of an ordered cursor, on every broker."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pspf.records import Commit


def is_within_batch(commit: Commit) -> bool:
    """Return whether a commit comes while its cursor's batch runs: it finishes no record and moves no position."""
    return commit.position is None and not commit.done and not commit.retries


@dataclass(frozen=True, slots=True)
class Suspicion:
    """That a record of the next `left` ones ended an earlier owner's process.

    Batches of at most `limit` records run alone; `offsets` are the ones about to run, `crashes`
    how often they, being one record, did it. Without `is_alone` others run beside that record, so that
    a crash may be theirs.
    """

    limit: int
    left: int
    offsets: tuple[int, ...] = ()
    crashes: int = 0
    is_alone: bool = True

    @classmethod
    def parse(cls, text: str | None) -> "Suspicion | None":
        if text is None:
            return None
        fields = json.loads(text)
        return cls(
            fields["limit"], fields["left"], tuple(fields["offsets"]), fields["crashes"], fields.get("is_alone", True)
        )

    def format(self) -> str:
        return json.dumps(asdict(self))

    def after_crash(self) -> "Suspicion":
        """Return what the next owner has to suspect."""
        if not self.offsets:
            return self
        if len(self.offsets) == 1:
            return Suspicion(1, 1, self.offsets, self.crashes + self.is_alone)
        return Suspicion(max(1, len(self.offsets) // 2), len(self.offsets))

    def after_silence(self) -> "Suspicion":
        """Return what the next owner has to suspect where the last one stands still: as after a crash, uncharged."""
        if len(self.offsets) == 1:
            return Suspicion(1, 1, self.offsets, self.crashes)
        return self.after_crash()

    def while_running(self, offsets: Sequence[int], *, is_alone: bool) -> "Suspicion":
        """Return the suspicion while these records run."""
        is_same = self.offsets == tuple(offsets)
        return Suspicion(self.limit, self.left, tuple(offsets), self.crashes if is_same else 0, is_alone)

    def after_commit(self, commit: Commit) -> "Suspicion | None":
        """Return the rest of the suspicion once the records of a commit have passed.

        One that finishes and moves nothing is in the midst of a batch: the suspicion goes on as it is.
        """
        finished = len(commit.done) + len(commit.retries)
        if is_within_batch(commit):
            return self
        left = self.left - finished
        return Suspicion(self.limit, left) if left > 0 else None

"""What an owner of an ordered cursor suspects of the records that ended its predecessor, on every broker."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Suspicion:
    """That a record of the next `left` ones ended an earlier owner's process.

    Batches of at most `limit` records run alone; `offsets` are the ones about to run, `crashes`
    how often they, being one record, did it.
    """

    limit: int
    left: int
    offsets: tuple[int, ...] = ()
    crashes: int = 0

    @classmethod
    def parse(cls, text: str | None) -> "Suspicion | None":
        if text is None:
            return None
        fields = json.loads(text)
        return cls(fields["limit"], fields["left"], tuple(fields["offsets"]), fields["crashes"])

    def format(self) -> str:
        return json.dumps(asdict(self))

    def after_crash(self) -> "Suspicion":
        """Return what the next owner has to suspect."""
        if not self.offsets:
            return self
        if len(self.offsets) == 1:
            return Suspicion(1, 1, self.offsets, self.crashes + 1)
        return Suspicion(max(1, len(self.offsets) // 2), len(self.offsets))

    def after_silence(self) -> "Suspicion":
        """Return what the next owner has to suspect where the last one stands still: as after a crash, uncharged."""
        if len(self.offsets) == 1:
            return Suspicion(1, 1, self.offsets, self.crashes)
        return self.after_crash()

    def after_commit(self, finished: int) -> "Suspicion | None":
        """Return what is left to suspect when `finished` records have passed."""
        left = self.left - finished
        return Suspicion(self.limit, left) if left > 0 else None

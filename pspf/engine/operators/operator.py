"""The protocol of an operator: keyed state that grows with the records of a cursor, and is due at some time.

An operator has no loop, no admission, no commit of its own: its host (`host.py`) does all of that. It gets
records in their order, asked when something is due, and asked once a batch what to write.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.idleness import IdleTracker
from pspf.engine.operators.context import OperatorContext
from pspf.engine.operators.places import Item
from pspf.records import EntryChanges
from pspf.windowing.event_time import Key
from pspf.windowing.spans import NEVER


class Operator(ABC):
    """An operator on one cursor. Its memory is what the last commit stored, or is about to.

    `restore`, `load`, `fold`, `on_watermark`, `on_due` and `end_batch` may wait for the broker (`context.entries`);
    everything else returns at once. What has no sensible default is abstract.
    """

    effects_per_record: int = 1
    """How many states and results one record changes at most."""
    stretch_ms: int = 0
    """How far records of one place reach from it; 0 where each has to be placed."""
    orders_by_grouping_key: bool = True
    """Whether a record that is not done holds back those of its grouping key; else those of its record's key."""
    moves_watermark: bool = True
    """Whether the watermark follows the records; else the operator sets `context.time` itself."""
    runs_in_thread: bool = False
    """Whether batches run in a thread, as the handler is a plain function."""

    def __init__(self, context: OperatorContext) -> None:
        self.context = context

    # What is stored

    @abstractmethod
    async def restore(self, stored: Mapping[str, Any] | None) -> None:
        """Take over what the last commit stored, before any record.

        `stored` is what `progress` returned, None before the first commit; entries are read from `context.entries`.
        """

    @abstractmethod
    def take_changes(self) -> EntryChanges:
        """Return the entries that changed since the last call, by namespace and key.

        Namespaces are of a kind that no other operator has (`EntryKind`).
        """

    def progress(self) -> Mapping[str, Any]:
        """Return what to store beside the entries, as JSON."""
        return {}

    # Records

    def place(self, time_ms: int, key: Key, at_ms: int) -> Any:
        """Return where a record belongs at a watermark: an `Aside`, or what `fold` understands."""
        return time_ms

    async def load(self, section: Sequence[Item]) -> None:  # noqa: B027 (most have all in memory)
        """Read what a section needs and is not in memory."""

    async def fold(self, section: Sequence[Item], run: BatchRun) -> int:
        """Aggregate the records of a section until all are taken or the run is closed; return how many were taken."""
        admission, fold_one = self.context.admission, self.fold_one
        for item in admission.admitted(section, run, self.fits):
            try:
                await fold_one(item, run)
            except BaseException as error:  # the boundary of the record
                admission.fail(item, error, run)
            else:
                if run.has_to_ask:
                    run.succeed(item[0])
        return admission.taken

    @abstractmethod
    async def fold_one(self, item: Item, run: BatchRun) -> None:
        """Aggregate one record that was admitted. What raises has changed nothing: the record is retried."""

    def fits(self, item: Item) -> bool:
        """Return whether the batch has room for a record; where it has not, the batch ends before it."""
        return True

    def check_states(self, item: Item) -> None:  # noqa: B027 (most read what they have stored when they load it)
        """Raise StateUnreadable where a record failed as its states can't be read: that is no fault of it."""

    # Time. In event time something is due at a watermark, by the wall clock at a time in epoch milliseconds.

    def due_watermark_ms(self) -> int:
        """Return the watermark at which something is due next."""
        return NEVER

    def last_due_watermark_ms(self) -> int | None:
        """Return the watermark at which all that is open is due, None where nothing is."""
        return None

    async def on_watermark(self, watermark_ms: int, source: int, run: BatchRun, *, may_pause: bool) -> bool:
        """Do all that is due at a watermark; return whether records can go on: not where the batch had no room for it.

        Results come from the record at offset `source`. With `may_pause` much can be done beside the records.
        """
        return True

    @property
    def is_behind(self) -> bool:
        """Whether something that is due is being done beside the records that come."""
        return False

    def due_ms(self) -> int:
        """Return the wall-clock time at which something is due next."""
        return NEVER

    async def on_due(self, now_ms: int, source: int, run: BatchRun) -> bool:
        """Do all that is due by the wall clock; return whether the batch had room for all of it."""
        return True

    # Batches

    async def end_batch(self, source: int, run: BatchRun) -> None:  # noqa: B027 (most have nothing to do then)
        """End the batch: release keys that are no longer held back, emit updates."""

    def count_changes(self) -> int:
        """Return how many states changed since the last commit, about."""
        return 0

    @property
    def section_records(self) -> int:
        """The most records of a section."""
        return self.context.budget.section_records

    # Idleness of the cursor

    @property
    def has_work(self) -> bool:
        """Whether there is something to write that no record brought."""
        return False

    async def on_idle(self, idle: IdleTracker) -> None:  # noqa: B027 (most wait for records alone)
        """Note that a read found nothing."""

    def poll_timeout_ms(self, idle: IdleTracker, longest_ms: int) -> int:
        """Return how long the read that begins now may wait for a record."""
        return longest_ms

"""Admission and failure of an operator's records: order within a key while one of its records is not done."""

from collections.abc import Callable, Iterator, Sequence

from pspf.context import Call
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import ends_run
from pspf.engine.key_order import KeyOrder
from pspf.engine.operators.late import LateRecords
from pspf.engine.operators.places import Aside, Broken, Item, TooLate
from pspf.errors import StateUnreadable
from pspf.windowing.event_time import Key


def order_of(key: Key) -> bytes:
    """Return the key that a record's order belongs to: its grouping key, one for all without."""
    return b"" if key is None else key.encode()


class Admission:
    """Decides which records of a section run, and what becomes of those that fail."""

    call: Call
    """The call whose record moves on with the section; set once a batch."""

    def __init__(self, held: KeyOrder, held_ms: dict[int, int], late: LateRecords) -> None:
        self.held = held
        self.taken = 0
        """How many records of the last section had their turn."""
        self._held_ms = held_ms
        self._late = late
        self._keys: dict[int, bytes] = {}
        """The grouping keys of the records that are not done, by offset."""
        self._by_grouping_key: bool
        self._check_states: Callable[[Item], None]

    def serve(self, check_states: Callable[[Item], None], *, by_grouping_key: bool) -> None:
        """Admit for an operator: it says what a record holds back that is not done, and reads states that failed."""
        self._check_states = check_states
        self._by_grouping_key = by_grouping_key
        if by_grouping_key:
            self.held.key_of = lambda record: self._keys.get(record.offset)

    def admitted(self, section: Sequence[Item], run: BatchRun, fits: Callable[[Item], bool]) -> Iterator[Item]:
        """Give the records of a section that may run, in order, until the run is closed; `taken` counts all of them."""
        call = self.call
        for taken, item in enumerate(section):
            if run.is_closed or not fits(item):
                run.is_closed, self.taken = True, taken
                return
            if run.has_to_ask and not self.admit(item, run):
                continue
            if isinstance(item[3], Aside):
                self._set_aside(item, run)
                continue
            call.record = item[0]
            yield item
        self.taken = len(section)

    def admit(self, item: Item, run: BatchRun) -> bool:
        """Return whether a record may run now; needed only in batches where one may not."""
        self._note_key(item)
        if run.admit(item[0]):
            return True
        self._note_time(item)
        return False

    def put_aside(self, item: Item, run: BatchRun) -> None:
        """Handle an `Aside`, a record that is not aggregated, if it may run."""
        if not run.has_to_ask or self.admit(item, run):
            self._set_aside(item, run)

    def fail(self, item: Item, error: BaseException, run: BatchRun) -> None:
        """Note a failure; the record keeps the watermark of its position for its next run."""
        if isinstance(error, StateUnreadable) or ends_run(error, run):
            raise error  # it is not the record's fault
        self._check_states(item)
        self._note_key(item)
        run.fail(item[0], error)
        self._note_time(item)

    def _set_aside(self, item: Item, run: BatchRun) -> None:
        where = item[3]
        if isinstance(where, Broken):
            self.fail(item, where.error, run)
            return
        if isinstance(where, TooLate):
            self._late.send(item, where, run)
        else:
            run.passed += 1
        if run.has_to_ask:
            run.succeed(item[0])

    def _note_key(self, item: Item) -> None:
        if self._by_grouping_key and not isinstance(item[3], Broken):
            self._keys[item[0].offset] = order_of(item[2])

    def _note_time(self, item: Item) -> None:
        if self.held.is_waiting(item[0].offset):
            self._held_ms.setdefault(item[0].offset, item[4])

    def forget_done(self) -> None:
        """Forget the keys and times of the records that are done."""
        for noted in (self._keys, self._held_ms):
            for offset in [offset for offset in noted if not self.held.is_waiting(offset)]:
                del noted[offset]

    def held_keys(self) -> set[Key]:
        """Return the grouping keys that a record is not done of."""
        keys = self.held.keys
        return {raw.decode() for raw in keys} | ({None} if b"" in keys else set())

    def is_held(self, key: Key) -> bool:
        """Return whether a record of a grouping key is not done."""
        return self.held.holds(order_of(key))

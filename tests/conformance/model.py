"""What a broker has to remember, as plain Python: the model that random interleavings are checked against."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from pspf.records import Record, Retry


class Outcome(Enum):
    """What a handler makes of a record."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    LEFT = "left in hand"


class Place(Enum):
    """Where a record of a shared cursor is.

    FREE -> HELD -> FREE (given back), RETRY, DONE, DEAD; RETRY -> HELD; DEAD -> RETRY (replayed).
    """

    FREE = "free"
    HELD = "held"
    RETRY = "retry"
    DONE = "done"
    DEAD = "dead"


@dataclass(slots=True)
class Shared:
    """One record of the shared cursor: `holder` is a worker's number, `due_ms` set for a RETRY."""

    place: Place = Place.FREE
    holder: int | None = None
    attempts: int = 0
    due_ms: int = 0


@dataclass
class SharedModel:
    """The shared cursor of one partition."""

    records: dict[int, Shared] = field(default_factory=dict)

    def append(self, offset: int) -> None:
        self.records[offset] = Shared()

    def deliver(self, record: Record, worker: int, dead_workers: Iterable[int], now_ms: int) -> None:
        """Check that `worker` may get this record now, and give it."""
        entry = self.records[record.offset]
        if entry.place is Place.HELD:
            assert entry.holder in set(dead_workers), (
                f"{record.id} is in the hands of worker {entry.holder}, which lives"
            )
        else:
            assert entry.place in (Place.FREE, Place.RETRY), f"{record.id} is {entry.place.value}, and was given again"
        if entry.place is Place.RETRY:
            assert entry.due_ms <= now_ms, f"{record.id} is due in {entry.due_ms - now_ms} ms, and was given now"
        assert record.attempts == entry.attempts, f"{record.id} has {record.attempts} attempts, not {entry.attempts}"
        entry.place, entry.holder = Place.HELD, worker

    def is_held(self, offset: int, worker: int) -> bool:
        entry = self.records[offset]
        return entry.place is Place.HELD and entry.holder == worker

    def settle(self, offset: int, outcome: Outcome, due_ms: int) -> None:
        """Finish or fail a record that is held."""
        entry = self.records[offset]
        entry.holder = None
        if outcome is Outcome.RETRY:
            entry.place, entry.attempts, entry.due_ms = Place.RETRY, entry.attempts + 1, due_ms
        else:
            entry.place = Place.DONE if outcome is Outcome.DONE else Place.DEAD

    def give_back(self, worker: int) -> None:
        """Free all that `worker` holds, uncharged."""
        for entry in self.records.values():
            if entry.place is Place.HELD and entry.holder == worker:
                entry.place, entry.holder = Place.FREE, None

    def replay(self, offset: int, now_ms: int) -> None:
        entry = self.records[offset]
        assert entry.place is Place.DEAD
        entry.place, entry.attempts, entry.due_ms = Place.RETRY, 0, now_ms

    @property
    def lag(self) -> int:
        return sum(entry.place not in (Place.DONE, Place.DEAD) for entry in self.records.values())


@dataclass
class OrderedModel:
    """The ordered cursor of one partition: what the broker stores, and who may write it."""

    offsets: list[int] = field(default_factory=list)
    position: int = 0
    rows: dict[int, Retry] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    replayed: set[int] = field(default_factory=set)
    state: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))
    owner: int | None = None
    is_moved: bool = False
    """Somebody wrote the cursor beside its owner, whose next commit is STALE."""

    def append(self, offset: int) -> None:
        self.offsets.append(offset)

    def unread(self, position: int) -> list[int]:
        return [offset for offset in self.offsets if offset >= position]

    @property
    def lag(self) -> int:
        return len(self.unread(self.position)) + len(self.rows)

    def replay(self, offset: int, key: bytes | None, now_ms: int) -> None:
        assert offset in self.dead
        self.dead.remove(offset)
        self.replayed.add(offset)
        for row in list(self.rows.values()):
            if key is not None and row.key == key and row.offset > offset:
                self.rows[row.offset] = replace(row, due_ms=None)  # it is ahead of the later ones of its key
        self.rows[offset] = Retry(offset, key, 0, now_ms)
        self.is_moved = True

    def check_order(self) -> None:
        """Check that each key's records were handled in order (those replayed came when they came)."""
        for key, handled in self.state.items():
            in_turn = [offset for offset in handled if offset not in self.replayed]
            assert in_turn == sorted(in_turn), f"{key!r} was handled in the order {in_turn}"


@dataclass
class Plan:
    """What an ordered worker makes of one batch: its commit's content and the rows after it."""

    rows: dict[int, Retry]
    done: list[Record] = field(default_factory=list)
    dead: list[Record] = field(default_factory=list)
    changed: dict[int, Retry] = field(default_factory=dict)

    def handle(self, record: Record, outcome: Outcome, now_ms: int, delay_ms: int, *, frees_all: bool) -> None:
        """Handle one record, or hold it back behind an earlier one of its key."""
        if self._is_behind(record):
            self._keep(Retry(record.offset, record.raw_key, record.attempts, None))
        elif outcome is Outcome.RETRY:
            self._keep(Retry(record.offset, record.raw_key, record.attempts + 1, now_ms + delay_ms, "ValueError"))
        else:
            (self.done if outcome is Outcome.DONE else self.dead).append(record)
            self.rows.pop(record.offset, None)
            self.changed.pop(record.offset, None)
            self._free(record.raw_key, now_ms, frees_all=frees_all)

    def _is_behind(self, record: Record) -> bool:
        key = record.raw_key
        return key is not None and any(row.key == key and row.offset < record.offset for row in self.rows.values())

    def _keep(self, row: Retry) -> None:
        self.rows[row.offset] = self.changed[row.offset] = row

    def _free(self, key: bytes | None, now_ms: int, *, frees_all: bool) -> None:
        """Make what waited behind a record of this key due: the next one, or all."""
        waiting = sorted(row.offset for row in self.rows.values() if row.key == key and key is not None)
        for offset in waiting if frees_all else waiting[:1]:
            if self.rows[offset].due_ms is None:
                self._keep(replace(self.rows[offset], due_ms=now_ms))


@dataclass
class Model:
    """A topic with a shared and an ordered cursor on each partition."""

    partitions: int
    keys: dict[tuple[int, int], bytes | None] = field(default_factory=dict)
    ids: dict[tuple[int, str], int] = field(default_factory=dict)
    shared: list[SharedModel] = field(default_factory=list)
    ordered: list[OrderedModel] = field(default_factory=list)
    emitted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.shared = [SharedModel() for _ in range(self.partitions)]
        self.ordered = [OrderedModel() for _ in range(self.partitions)]

    def append(self, partition: int, offset: int, key: bytes | None) -> None:
        assert (partition, offset) not in self.keys, f"offset {offset} of partition {partition} was used before"
        self.keys[partition, offset] = key
        self.shared[partition].append(offset)
        self.ordered[partition].append(offset)

    def emit(self, values: Sequence[str]) -> None:
        self.emitted.update(values)

    @property
    def dead(self) -> list[tuple[bool, int, int]]:
        """(ordered, partition, offset) of all dead letters."""
        shared = [
            (False, partition, offset)
            for partition, cursor in enumerate(self.shared)
            for offset, entry in cursor.records.items()
            if entry.place is Place.DEAD
        ]
        ordered = [(True, partition, offset) for partition, c in enumerate(self.ordered) for offset in c.dead]
        return sorted(shared + ordered)

"""The log of windows on top of their rows: whatever is written when, what is read is what the commits came to."""

import itertools
from collections.abc import Iterator
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import entries, row_writing
from pspf.connectors.sqlite.entry_log import Overlay, Pool, Size, decode, encode
from pspf.connectors.sqlite.row_writing import OwnLog
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import BackendCorrupt
from pspf.records import EntryChanges, EntryPlace
from tests.support.windows import by_place, by_slot

CURSOR = 7
OTHER = 8
_numbers = itertools.count(1)
SIZES = (Size(commits=1), Size(commits=3), Size(entries=4), Size(size_bytes=150), Size())

slots = st.integers(-2, 2).map(lambda number: number * 10_000)
keys = st.sampled_from([b"", b"=", b"=a", b"=a\0", b"=b", b"=\xff", b"=zz"])
changes = st.builds(
    lambda dropped, states: EntryChanges(tuple(dropped), by_slot(states)),
    st.lists(slots, max_size=2, unique=True),
    st.dictionaries(st.tuples(slots, keys), st.none() | st.binary(max_size=20), max_size=6),
)


@pytest.fixture
def storage() -> Iterator[Storage]:
    found = Storage(None, Limits())
    found.open()
    yield found
    found.close()


def settle(model: dict[EntryPlace, bytes], change: EntryChanges) -> None:
    """Do to a plain dict what a commit does."""
    for place in [place for place in model if place[0] in change.dropped]:
        del model[place]
    for place, state in by_place(change.entries).items():
        model.pop(place, None)
        if state is not None:
            model[place] = state


class Owner:
    """The owner of a cursor; what becomes rows is written in steps of a few."""

    def __init__(self, storage: Storage, cursor: int = CURSOR, pool: Pool | None = None) -> None:
        self.log = OwnLog(entries.load(storage, cursor, pool))
        self._storage, self._cursor, self._pool = storage, cursor, pool

    @property
    def overlay(self) -> Overlay:
        return self.log.overlay

    def write(self, change: EntryChanges, *, fails: bool = False) -> None:
        """Write a commit, or see it undone."""
        self._storage.begin()
        number = next(_numbers)
        logged_bytes = entries.write_entries(self._storage, self._cursor, number, self.log, change)
        if fails:
            self._storage.rollback()
            self.log = OwnLog(entries.load(self._storage, self._cursor, self._pool))
            return
        self._storage.commit()
        self.log.note(change, logged_bytes)


def count(storage: Storage) -> tuple[int, int]:
    """Return how many commits the log has, and how many rows there are."""
    logged, rows = (storage.rows(f"SELECT count(*) FROM {table}")[0][0] for table in ("entry_log", "entries"))
    return logged, rows


def read_all(storage: Storage, overlay: Overlay, page: int) -> dict[EntryPlace, bytes]:
    """Read what there is, slot by slot and page by page."""
    found: dict[EntryPlace, bytes] = {}
    for slot in entries.list_namespaces(storage, CURSOR, overlay):
        after: bytes | None = None
        while rows := entries.scan_entries(storage, CURSOR, overlay, slot, after, page):
            assert [key for key, _ in rows] == sorted(key for key, _ in rows)
            found.update({(slot, key): state for key, state in rows})
            if len(rows) < page:
                break
            after = rows[-1][0]
    return found


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is written in slices of thousands be written in slices of a few."""
    for name, least in (("_LEAST_ROWS", 4), ("_ROWS", 2), ("_SORTED_AT_ONCE", 3), ("_DELETED_BYTES", 100)):
        monkeypatch.setattr(row_writing, name, least)


@pytest.mark.parametrize("size", SIZES, ids=str)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(changes, st.booleans(), st.booleans()), max_size=12), st.integers(1, 4))
def test_what_is_read_is_what_the_commits_came_to(
    size: Size, steps: list[tuple[EntryChanges, bool, bool]], page: int
) -> None:
    storage = Storage(None, Limits())
    storage.open()
    model: dict[EntryPlace, bytes] = {}
    owner, logs = Owner(storage, pool=Pool(size)), entries.Logs()
    for change, fails, is_new_owner in steps:
        owner.write(change, fails=fails)
        if not fails:
            settle(model, change)
        if is_new_owner:
            owner = Owner(storage, pool=Pool(size))
        places = [*model, *by_place(change.entries)]
        for overlay in (owner.overlay, logs.overlay(storage, CURSOR)):
            assert read_all(storage, overlay, page) == model
            assert entries.list_namespaces(storage, CURSOR, overlay) == sorted({slot for slot, _ in model})
            assert entries.read_entries(storage, CURSOR, overlay, places) == model
        assert entries.count_entries(storage, CURSOR) == len(model)
    storage.close()


def test_what_has_no_room_in_the_log_becomes_rows_and_leaves_the_log(storage: Storage) -> None:
    owner = Owner(storage, pool=Pool(Size(commits=2)))
    for number, expected in enumerate([(1, 0), (2, 0), (3, 2), (2, 2)]):
        owner.write(EntryChanges((), {0: {b"=%d" % number: b"s"}}))
        assert count(storage) == expected
    assert (owner.overlay.commits, owner.overlay.entries) == (2, 2)


def test_a_full_log_becomes_rows_over_many_commits_of_bounded_work(storage: Storage) -> None:
    owner = Owner(storage, pool=Pool(Size(entries=400)))
    owner.write(EntryChanges((), {number % 7: {b"=%d" % n: b"s" for n in range(60)} for number in range(7)}))
    before, most, commits = count(storage)[1], 0, 0
    for commits in range(1, 1_000):
        owner.write(EntryChanges((), {9: {b"=%d" % commits: b"s"}}))
        now = count(storage)[1]
        before, most = now, max(most, now - before)
        if count(storage) == (commits, 420):
            break
    assert count(storage) == (commits, 420)
    assert 40 < commits < 400
    assert most <= 8
    assert len(read_all(storage, owner.overlay, 1_000)) == 420 + commits
    assert owner.overlay.commits == commits


def test_a_dropped_namespace_of_many_rows_is_deleted_in_slices(storage: Storage) -> None:
    storage.insert("entries", 4, [(CURSOR, 0, b"=%d" % number, b"s") for number in range(100)])
    owner = Owner(storage, pool=Pool(Size(commits=1)))
    owner.write(EntryChanges((0,), {}))
    seen = [100]
    while count(storage)[1]:
        owner.write(EntryChanges((), {1: {b"=k": b"s"}}))
        assert read_all(storage, owner.overlay, 10) == {(1, b"=k"): b"s"}
        seen.append(count(storage)[1])
        if len(seen) > 100:
            break
    assert max(before - after for before, after in pairwise(seen)) <= 8
    assert (CURSOR, 0) not in {row[:2] for row in storage.rows("SELECT cursor_id, namespace FROM entries")}


def test_an_owner_that_takes_over_in_between_begins_the_rows_anew(storage: Storage) -> None:
    pool = Pool(Size(entries=50))
    owner = Owner(storage, pool=pool)
    owner.write(EntryChanges((), {0: {b"=%d" % n: b"s" for n in range(60)}}))
    for n in range(15):
        owner.write(EntryChanges((), {0: {b"=%d" % n: b"t"}}))
    logged, rows = count(storage)
    assert logged == 16
    assert 0 < rows < 60
    heir = Owner(storage, pool=Pool(Size(entries=50)))
    for n in range(120):
        heir.write(EntryChanges((), {0: {b"=%d" % (n % 60): b"u"}}))
    assert read_all(storage, heir.overlay, 7) == {(0, b"=%d" % n): b"u" for n in range(60)}
    assert count(storage)[0] < logged + 120


def test_a_window_that_came_and_went_has_never_been_among_the_rows(storage: Storage) -> None:
    owner = Owner(storage, pool=Pool(Size(commits=2)))
    owner.write(EntryChanges((), {0: {b"=a": b"s"}}))
    owner.write(EntryChanges((0,), {10_000: {b"=a": b"s"}}))
    owner.write(EntryChanges((10_000,), {20_000: {b"=a": b"s"}}))
    owner.write(EntryChanges((), {20_000: {b"=a": b"t"}}))
    assert {row[0] for row in storage.rows("SELECT namespace FROM entries")} <= {10_000, 20_000}


@pytest.mark.parametrize(("kept", "rows"), [(1, 1), (20, 0)])
def test_a_log_is_written_ahead_of_time_where_next_to_nothing_of_it_is_left(
    storage: Storage, kept: int, rows: int
) -> None:
    owner = Owner(storage, pool=Pool(Size(size_bytes=4_000)))
    owner.write(EntryChanges((), {0: {b"=%d" % number: b"s" * 10 for number in range(30)}}))
    assert owner.overlay.size_bytes > 1_000  # a quarter
    owner.write(EntryChanges((0,), {10_000: {b"=%d" % number: b"s" for number in range(kept)}}))
    for _ in range(3):
        owner.write(EntryChanges((), {10_000: {b"=0": b"t"}}))
    assert count(storage)[1] == rows


def test_the_logs_of_a_worker_share_what_they_may_hold(storage: Storage) -> None:
    pool = Pool(Size(entries=4))
    one, other = Owner(storage, CURSOR, pool), Owner(storage, OTHER, pool)
    one.write(EntryChanges((), {0: {b"=%d" % number: b"s" for number in range(3)}}))
    assert not other.overlay.has_room(0, 2)
    assert other.overlay.has_room(0, 1)
    del one  # the cursor was given back, or taken
    assert other.overlay.has_room(0, 4)


def test_what_has_become_rows_makes_room_for_the_others(storage: Storage) -> None:
    pool = Pool(Size(entries=4))
    one, other = Owner(storage, CURSOR, pool), Owner(storage, OTHER, pool)
    one.write(EntryChanges((), {0: {b"=%d" % number: b"s" for number in range(4)}}))
    assert not other.overlay.has_room(0, 1)
    for _ in range(9):
        one.write(EntryChanges((), {0: {b"=0": b"t"}}))
    assert other.overlay.has_room(0, 2)


def test_a_reader_that_keeps_the_log_sees_each_commit_and_reads_it_once(storage: Storage) -> None:
    logs, owner = entries.Logs(), Owner(storage, pool=Pool(Size(commits=3)))
    for number in range(3):
        owner.write(EntryChanges((), {0: {b"=%d" % number: b"s"}}))
        kept = logs.overlay(storage, CURSOR)
        assert len(read_all(storage, kept, 10)) == number + 1
        assert kept.size_bytes == owner.overlay.size_bytes
    assert logs.overlay(storage, CURSOR) is kept
    model: dict[EntryPlace, bytes] = {(0, b"=%d" % number): b"s" for number in range(3)}
    for number in range(30):  # what the log says becomes rows, again and again
        change = EntryChanges((), {0: {b"=%d" % (number % 5): None if number % 3 else b"%d" % number}})
        owner.write(change)
        settle(model, change)
        found = logs.overlay(storage, CURSOR)
        assert read_all(storage, found, 10) == model
        assert found.commits < 12
    assert logs.overlay(storage, OTHER).is_empty


@given(changes)
def test_changes_are_read_as_they_were_written(change: EntryChanges) -> None:
    found = decode(encode(change))
    assert (tuple(found.dropped), found.entries) == (change.dropped, change.entries)


@pytest.mark.parametrize("length", [0, 7, 16, 40, 44])
def test_changes_that_were_cut_are_an_error(length: int) -> None:
    whole = encode(EntryChanges((), {0: {b"=a": b"state"}}))
    assert len(whole) > length
    with pytest.raises(BackendCorrupt, match="a change of entries"):
        decode(whole[:length])

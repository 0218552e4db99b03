"""The log of windows on top of their rows: whatever is written when, what is read is what the commits came to."""

from collections.abc import Iterator
from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import entries
from pspf.connectors.sqlite.entry_log import Overlay, Pool, Size, decode, encode
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import BackendCorrupt
from pspf.records import EntryChanges, EntryPlace
from tests.support.windows import by_place, by_slot

CURSOR = 7
OTHER = 8
_numbers = count(1)
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


def write(storage: Storage, overlay: Overlay, change: EntryChanges, *, fails: bool = False) -> None:
    """Write a commit as the owner of a cursor does, or see it undone."""
    storage.begin()
    logged_bytes = entries.write_entries(storage, CURSOR, next(_numbers), overlay, change)
    if fails:
        storage.rollback()
        return
    storage.commit()
    if logged_bytes is None:
        overlay.clear()
    elif logged_bytes:
        overlay.add(change, logged_bytes)


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


@pytest.mark.parametrize("size", SIZES, ids=str)
@given(st.lists(st.tuples(changes, st.booleans(), st.booleans()), max_size=8), st.integers(1, 4))
def test_what_is_read_is_what_the_commits_came_to(
    size: Size, steps: list[tuple[EntryChanges, bool, bool]], page: int
) -> None:
    storage = Storage(None, Limits())
    storage.open()
    model: dict[EntryPlace, bytes] = {}
    overlay = entries.load(storage, CURSOR, Pool(size))
    for change, fails, is_new_owner in steps:
        write(storage, overlay, change, fails=fails)
        if not fails:
            settle(model, change)
        if is_new_owner:
            overlay = entries.load(storage, CURSOR, Pool(size))
        assert read_all(storage, overlay, page) == model
        assert entries.list_namespaces(storage, CURSOR, overlay) == sorted({slot for slot, _ in model})
        places = [*model, *by_place(change.entries)]
        assert entries.read_entries(storage, CURSOR, overlay, places) == model
        assert entries.count_entries(storage, CURSOR) == len(model)
    storage.close()


def test_what_has_no_room_in_the_log_becomes_rows_and_the_log_is_empty(storage: Storage) -> None:
    overlay = entries.load(storage, CURSOR, Pool(Size(commits=2)))
    for number in range(3):
        write(storage, overlay, EntryChanges((), {0: {b"=%d" % number: b"s"}}))
        logged = storage.rows("SELECT count(*) FROM entry_log")[0][0]
        rows = storage.rows("SELECT count(*) FROM entries")[0][0]
        assert (logged, rows) == ((number + 1, 0) if number < 2 else (0, 3))
    assert overlay.is_empty


def test_a_window_that_came_and_went_has_never_been_among_the_rows(storage: Storage) -> None:
    overlay = entries.load(storage, CURSOR, Pool(Size(commits=2)))
    write(storage, overlay, EntryChanges((), {0: {b"=a": b"s"}}))
    write(storage, overlay, EntryChanges((0,), {10_000: {b"=a": b"s"}}))
    write(storage, overlay, EntryChanges((10_000,), {20_000: {b"=a": b"s"}}))
    assert storage.rows("SELECT namespace FROM entries") == [(20_000,)]


@pytest.mark.parametrize(("kept", "rows"), [(1, 1), (20, 0)])
def test_a_log_is_written_ahead_of_time_where_next_to_nothing_of_it_is_left(
    storage: Storage, kept: int, rows: int
) -> None:
    overlay = entries.load(storage, CURSOR, Pool(Size(size_bytes=4_000)))
    write(storage, overlay, EntryChanges((), {0: {b"=%d" % number: b"s" * 10 for number in range(30)}}))
    assert overlay.size_bytes > 1_000  # a quarter
    write(storage, overlay, EntryChanges((0,), {10_000: {b"=%d" % number: b"s" for number in range(kept)}}))
    write(storage, overlay, EntryChanges((), {10_000: {b"=0": b"t"}}))
    assert storage.rows("SELECT count(*) FROM entries")[0][0] == rows
    assert overlay.is_empty == bool(rows)


def test_the_logs_of_a_worker_share_what_they_may_hold(storage: Storage) -> None:
    pool = Pool(Size(entries=4))
    one, other = entries.load(storage, CURSOR, pool), entries.load(storage, OTHER, pool)
    write(storage, one, EntryChanges((), {0: {b"=%d" % number: b"s" for number in range(3)}}))
    assert not other.has_room(0, 2)
    assert other.has_room(0, 1)
    del one  # the cursor was given back, or taken
    assert other.has_room(0, 4)


def test_a_reader_that_keeps_the_log_sees_each_commit_and_reads_it_once(storage: Storage) -> None:
    logs, overlay = entries.Logs(), entries.load(storage, CURSOR, Pool(Size(commits=3)))
    for number in range(3):
        write(storage, overlay, EntryChanges((), {0: {b"=%d" % number: b"s"}}))
        kept = logs.overlay(storage, CURSOR)
        assert len(read_all(storage, kept, 10)) == number + 1
        assert kept.size_bytes == overlay.size_bytes
    assert logs.overlay(storage, CURSOR) is kept
    write(storage, overlay, EntryChanges((), {0: {b"=0": None}}))  # what the log says becomes rows
    assert logs.overlay(storage, CURSOR).is_empty
    write(storage, overlay, EntryChanges((), {0: {b"=0": b"t", b"=1": None}}))
    assert read_all(storage, logs.overlay(storage, CURSOR), 10) == {(0, b"=0"): b"t", (0, b"=2"): b"s"}
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

"""The log of windows on top of their rows: whatever is written when, what is read is what the commits came to."""

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import entries
from pspf.connectors.sqlite.entry_log import Overlay, Pool, Size, decode, encode
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import BackendCorrupt
from pspf.records import WindowChanges, WindowPlace
from tests.support.windows import by_place, by_slot

CURSOR = 7
OTHER = 8
SIZES = (Size(commits=1), Size(commits=3), Size(states=4), Size(size_bytes=150), Size())

slots = st.integers(-2, 2).map(lambda number: number * 10_000)
keys = st.sampled_from([b"", b"=", b"=a", b"=a\0", b"=b", b"=\xff", b"=zz"])
changes = st.builds(
    lambda dropped, states: WindowChanges(None, b"", tuple(dropped), by_slot(states)),
    st.lists(slots, max_size=2, unique=True),
    st.dictionaries(st.tuples(slots, keys), st.none() | st.binary(max_size=20), max_size=6),
)


@pytest.fixture
def storage() -> Iterator[Storage]:
    found = Storage(None, Limits())
    found.open()
    yield found
    found.close()


def settle(model: dict[WindowPlace, bytes], change: WindowChanges) -> None:
    """Do to a plain dict what a commit does."""
    for place in [place for place in model if place[0] in change.dropped]:
        del model[place]
    for place, state in by_place(change.states).items():
        model.pop(place, None)
        if state is not None:
            model[place] = state


def write(storage: Storage, overlay: Overlay, change: WindowChanges, *, fails: bool = False) -> None:
    """Write a commit as the owner of a cursor does, or see it undone."""
    storage.begin()
    logged_bytes = entries.write_windows(storage, CURSOR, overlay, change)
    if fails:
        storage.rollback()
        return
    storage.commit()
    if logged_bytes is None:
        overlay.clear()
    elif logged_bytes:
        overlay.add(change.dropped, change.states, logged_bytes)


def read_all(storage: Storage, overlay: Overlay, page: int) -> dict[WindowPlace, bytes]:
    """Read what there is, slot by slot and page by page."""
    found: dict[WindowPlace, bytes] = {}
    for slot in entries.read_slots(storage, CURSOR, overlay):
        after: bytes | None = None
        while rows := entries.scan_windows(storage, CURSOR, overlay, slot, after, page):
            assert [key for key, _ in rows] == sorted(key for key, _ in rows)
            found.update({(slot, key): state for key, state in rows})
            if len(rows) < page:
                break
            after = rows[-1][0]
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
@given(st.lists(st.tuples(changes, st.booleans(), st.booleans()), max_size=8), st.integers(1, 4))
def test_what_is_read_is_what_the_commits_came_to(
    size: Size, steps: list[tuple[WindowChanges, bool, bool]], page: int
) -> None:
    storage = Storage(None, Limits())
    storage.open()
    model: dict[WindowPlace, bytes] = {}
    overlay = entries.load(storage, CURSOR, Pool(size))
    for change, fails, is_new_owner in steps:
        write(storage, overlay, change, fails=fails)
        if not fails:
            settle(model, change)
        if is_new_owner:
            overlay = entries.load(storage, CURSOR, Pool(size))
        assert read_all(storage, overlay, page) == model
        assert entries.read_slots(storage, CURSOR, overlay) == sorted({slot for slot, _ in model})
        places = [*model, *by_place(change.states)]
        assert entries.read_windows(storage, CURSOR, overlay, places) == model
        assert entries.count_windows(storage, CURSOR) == len(model)
    storage.close()


def test_what_has_no_room_in_the_log_becomes_rows_and_the_log_is_empty(storage: Storage) -> None:
    overlay = entries.load(storage, CURSOR, Pool(Size(commits=2)))
    for number in range(3):
        write(storage, overlay, WindowChanges(None, b"", (), {0: {b"=%d" % number: b"s"}}))
        logged = storage.rows("SELECT count(*) FROM window_log")[0][0]
        rows = storage.rows("SELECT count(*) FROM windows")[0][0]
        assert (logged, rows) == ((number + 1, 0) if number < 2 else (0, 3))
    assert overlay.is_empty


def test_a_window_that_came_and_went_has_never_been_among_the_rows(storage: Storage) -> None:
    overlay = entries.load(storage, CURSOR, Pool(Size(commits=2)))
    write(storage, overlay, WindowChanges(None, b"", (), {0: {b"=a": b"s"}}))
    write(storage, overlay, WindowChanges(None, b"", (0,), {10_000: {b"=a": b"s"}}))
    write(storage, overlay, WindowChanges(None, b"", (10_000,), {20_000: {b"=a": b"s"}}))
    assert storage.rows("SELECT slot FROM windows") == [(20_000,)]


@pytest.mark.parametrize(("kept", "rows"), [(1, 1), (20, 0)])
def test_a_log_is_written_ahead_of_time_where_next_to_nothing_of_it_is_left(
    storage: Storage, kept: int, rows: int
) -> None:
    overlay = entries.load(storage, CURSOR, Pool(Size(size_bytes=4_000)))
    write(storage, overlay, WindowChanges(None, b"", (), {0: {b"=%d" % number: b"s" * 10 for number in range(30)}}))
    assert overlay.size_bytes > 1_000  # a quarter
    write(storage, overlay, WindowChanges(None, b"", (0,), {10_000: {b"=%d" % number: b"s" for number in range(kept)}}))
    write(storage, overlay, WindowChanges(None, b"", (), {10_000: {b"=0": b"t"}}))
    assert storage.rows("SELECT count(*) FROM windows")[0][0] == rows
    assert overlay.is_empty == bool(rows)


def test_the_logs_of_a_worker_share_what_they_may_hold(storage: Storage) -> None:
    pool = Pool(Size(states=4))
    one, other = entries.load(storage, CURSOR, pool), entries.load(storage, OTHER, pool)
    write(storage, one, WindowChanges(None, b"", (), {0: {b"=%d" % number: b"s" for number in range(3)}}))
    assert not other.has_room(0, 2)
    assert other.has_room(0, 1)
    del one  # the cursor was given back, or taken
    assert other.has_room(0, 4)


def test_a_reader_that_keeps_the_log_sees_each_commit(storage: Storage) -> None:
    storage.run(
        "INSERT INTO cursors (cursor_id, partition_id, group_name, handler, position) VALUES (7, 1, 'g', 'h', 0)"
    )
    logs, overlay = entries.Logs(), entries.load(storage, CURSOR)
    for number in range(3):
        write(storage, overlay, WindowChanges(None, b"", (), {0: {b"=%d" % number: b"s"}}))
        storage.run("UPDATE cursors SET sequence = sequence + 1")
        assert len(read_all(storage, logs.overlay(storage, CURSOR), 10)) == number + 1
    kept = logs.overlay(storage, CURSOR)
    assert logs.overlay(storage, CURSOR) is kept
    storage.run("UPDATE cursors SET commit_id = x'01'")  # another cursor of the same number
    assert logs.overlay(storage, CURSOR) is not kept
    assert logs.overlay(storage, OTHER).is_empty


@given(changes)
def test_changes_are_read_as_they_were_written(change: WindowChanges) -> None:
    dropped, states = decode(encode(change.dropped, change.states))
    assert (tuple(dropped), states) == (change.dropped, change.states)


@pytest.mark.parametrize("length", [0, 7, 16, 40, 44])
def test_changes_that_were_cut_are_an_error(length: int) -> None:
    whole = encode((), {0: {b"=a": b"state"}})
    assert len(whole) > length
    with pytest.raises(BackendCorrupt, match="a change of windows"):
        decode(whole[:length])

"""The states of windows in memory: how many stay, and what is known of those that had to go."""

from pspf.windowing.event_time import encode_key
from pspf.windowing.table import Table
from tests.support.windows import by_place

MOST = 1_000


def make_table() -> Table:
    return Table(lambda states: states, lambda stored: stored, MOST, ())


def in_memory(table: Table) -> int:
    return sum(len(slot.entries) for slot in table.slots.values())


def put(table: Table, start: int, key: str) -> None:
    slot = table.slots.get(start) or table.open(start)
    slot.entries[key] = key.encode()
    slot.dirty.add(key)
    table.touched.add(start)


def test_memory_holds_no_more_than_it_may_however_many_keys_there_are() -> None:
    table, stored = make_table(), {}
    for batch in range(200):
        for n in range(500):
            put(table, batch % 7, f"key-{batch}-{n}")
        stored.update(by_place(table.take_changes().entries))
        assert in_memory(table) <= MOST
    assert len(stored) == 100_000


def test_what_had_to_go_is_told_to_be_missing_and_comes_back_as_it_was_stored() -> None:
    table, stored = make_table(), {}
    for n in range(3 * MOST):
        put(table, 0, f"key-{n}")
    stored.update(by_place(table.take_changes().entries))
    missing = table.missing([(0, f"key-{n}") for n in range(3 * MOST)])
    assert len(missing) == 3 * MOST - in_memory(table)
    table.fill({place: stored[place] or b"" for place in missing})
    assert table.slots[0].entries == {f"key-{n}": f"key-{n}".encode() for n in range(3 * MOST)}


def test_nothing_that_a_commit_has_not_stored_has_to_go() -> None:
    table = make_table()
    for n in range(3 * MOST):
        put(table, 0, f"key-{n}")
    assert table.missing([(0, f"key-{n}") for n in range(3 * MOST)]) == []
    assert set(by_place(table.take_changes().entries)) == {(0, encode_key(f"key-{n}")) for n in range(3 * MOST)}

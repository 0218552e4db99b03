"""Files of older formats: what they hold is there after they were brought up to date."""

from pathlib import Path
from typing import Final

import apsw
import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.sqlite.formats import FORMAT
from pspf.records import STATE, EntryPlace, StateKey, state_key
from tests.support.old_formats import make_older
from tests.support.windows import by_slot, with_windows
from tests.support.workers import GROUP, HANDLER, TOPIC, numbered, own, read_state, settle

VALUES: Final[dict[StateKey, bytes]] = {
    (b"", "n"): b"0",
    (b"a", "n"): b"1",
    (b"a", "ü"): b'"two"',
    (b"a\0", "n"): b"3",
    (b"a\0\xff", ""): b"4",
    (b"\xff", "n"): b"5",
}
STATES: Final[dict[EntryPlace, bytes | None]] = {(-10, b"=a"): b"1", (20, b""): b"2", (20, b"=b"): b"3"}
LOGGED: Final[dict[EntryPlace, bytes | None]] = {(20, b"=b"): None, (30, b"=c"): b"4"}


async def fill(path: Path) -> None:
    """Leave state as rows, and windows as rows and on top of them in the log."""
    async with SQLiteBroker(path) as broker:
        await broker.append(TOPIC, numbered(3))
        member = await own(broker)
        await member.consumer.commit(with_windows(settle(), 5, b"so far", (), by_slot(STATES)))
        await member.session.close()
    connection = apsw.Connection(str(path))
    rows = [(namespace, key, value) for (namespace, key), value in STATES.items()]
    rows += [(STATE, state_key(*place), value) for place, value in VALUES.items()]
    with connection:
        connection.execute("DELETE FROM entry_log")
        connection.executemany("INSERT INTO entries SELECT cursor_id, ?, ?, ? FROM cursors", rows)
    connection.close()
    async with SQLiteBroker(path) as broker:
        member = await own(broker)
        await member.consumer.commit(with_windows(settle(), 6, b"farther", (-10,), by_slot(LOGGED)))
        await member.session.close()


async def look(broker: Broker) -> dict[StateKey, bytes]:
    """Return all state that is seen from outside."""
    return {(entry.key, entry.name): entry.value for entry in await broker.list_state(handler=HANDLER, group=GROUP)}


@pytest.mark.parametrize("version", range(1, FORMAT))
async def test_state_and_windows_of_an_older_file_are_those_of_the_new_one(tmp_path: Path, version: int) -> None:
    path = tmp_path / "broker.db"
    await fill(path)
    make_older(path, version)
    rows = {place: value for place, value in STATES.items() if version >= 2}
    if version >= 3:
        rows = {place: value for place, value in {**rows, **LOGGED}.items() if value is not None and place[0] != -10}
    async with SQLiteBroker(path) as broker:
        assert await look(broker) == VALUES
        assert [entry.key for entry in await broker.list_state(key=b"a")] == [b"a", b"a"]
        member = await own(broker)
        consumer = member.consumer
        assert await read_state(consumer, [b"a\0"]) == {b"a\0": {"n": b"3"}}
        assert list(await consumer.list_namespaces()) == [*sorted({slot for slot, _ in rows}), STATE]
        assert await consumer.read_entries([*STATES, *LOGGED]) == rows
        assert await consumer.read_progress() == (None if version < 2 else b"farther")
        # What commits write on top of it, the next owner finds.
        await consumer.commit(settle(state={(b"a", "n"): None, (b"b", "n"): b"6"}))
        await member.session.close()
    expected = {place: value for place, value in VALUES.items() if place != (b"a", "n")} | {(b"b", "n"): b"6"}
    async with SQLiteBroker(path) as broker:
        assert await look(broker) == expected
        member = await own(broker)
        assert await member.consumer.read_entries([*STATES, *LOGGED]) == rows


async def test_a_file_of_now_and_one_that_was_updated_have_the_same_tables(tmp_path: Path) -> None:
    found = []
    for version in (*range(1, FORMAT), None):
        path = tmp_path / f"{version}.db"
        await fill(path)
        if version is not None:
            make_older(path, version)
            async with SQLiteBroker(path):
                pass
        connection = apsw.Connection(str(path))
        sql = "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_autoindex%' ORDER BY name"
        columns = {
            name: connection.execute(f"SELECT name, type FROM pragma_table_info('{name}')").fetchall()
            for (_, name, _) in connection.execute(sql)
        }
        found.append((connection.execute(sql).fetchall(), columns))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    assert all(each == found[-1] for each in found)

"""A record that another program takes out of the embedded broker's file while a cursor waits for it."""

from pathlib import Path

import apsw
import pytest

from pspf.connectors.sqlite import SQLiteBroker
from pspf.errors import CommitStale
from pspf.records import Cursor
from tests.support.workers import GROUP, HANDLER, TOPIC, new, own, read_lag, retry, settle, take, values


async def test_an_ordered_cursor_goes_on_without_it(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db") as broker:
        await broker.append(TOPIC, [new("0", "a"), new("1", "a")])
        member = await own(broker)
        first, second = await take(member.consumer)
        waiting = [retry(first, due_ms=1), retry(second, due_ms=None, attempts=0)]
        await member.consumer.commit(settle(retries=waiting, position=3))
        connection = apsw.Connection(str(tmp_path / "broker.db"))
        connection.execute("DELETE FROM records WHERE value = x'30'").fetchall()
        connection.close()
        with pytest.raises(CommitStale, match="1 records that waited here were deleted"):
            await take(member.consumer)
        await member.consumer.release()
        member = await own(broker)
        assert values(await take(member.consumer)) == ["1"]
        assert await read_lag(broker, Cursor(TOPIC, GROUP, HANDLER, 0)) == 1

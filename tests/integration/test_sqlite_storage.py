"""What the embedded broker's file goes through: which writes reach the disk, and what does not stay in it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from tests.support.workers import TOPIC, emit, new, numbered, own, settle, share, take_batch


class Syncs(apsw.VFS):
    """The system's files; counts by name's end how often a file was written through to the disk."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        super().__init__("syncs", "unix", makedefault=True)

    def xOpen(self, name: "str | apsw.URIFilename | None", flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        kind, counted = str(path).rpartition("-")[2], self.counted

        class File(apsw.VFSFile):
            def xSync(self, flags: int) -> None:  # noqa: N802
                counted[kind] += 1
                super().xSync(flags)

        return File("unix", name, flags)


@pytest.fixture
def syncs() -> Iterator[Syncs]:
    counting = Syncs()
    yield counting
    counting.unregister()
    apsw.set_default_vfs("unix")


@pytest.mark.parametrize("is_ordered", [True, False], ids=["ordered", "shared"])
async def test_with_full_an_append_and_a_commit_are_on_the_disk_when_they_return(
    syncs: Syncs, tmp_path: Path, is_ordered: bool
) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="FULL")) as broker:
        await broker.create_topic(TOPIC)
        before = syncs.counted["wal"]
        await broker.append(TOPIC, numbered(3))
        assert syncs.counted["wal"] > before
        member = await (own if is_ordered else share)(broker)
        batch = await take_batch(member.consumer)
        commit = settle(batch.records, position=batch.end if is_ordered else None, emits=[emit(batch.records[0], "x")])
        before = syncs.counted["wal"]
        await member.consumer.commit(commit)
        assert syncs.counted["wal"] > before


async def test_with_normal_a_commit_does_not_wait_for_the_disk(syncs: Syncs, tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL")) as broker:
        await broker.create_topic(TOPIC)
        before = syncs.counted["wal"]
        await broker.append(TOPIC, numbered(3))
        assert syncs.counted["wal"] == before


def count(path: Path, where: str) -> int:
    connection = apsw.Connection(str(path))
    found: Any = connection.execute(f"SELECT count(*) FROM dedup WHERE {where}").fetchall()[0][0]
    connection.close()
    return int(found)


async def test_event_ids_that_left_the_window_leave_the_file(tmp_path: Path) -> None:
    limits = Limits(synchronous="NORMAL", dedup_max_ids=100)
    async with SQLiteBroker(tmp_path / "broker.db", limits, ManualClock()) as broker:
        for start in range(0, 1_000, 10):
            await broker.append(TOPIC, [new("x", event_id=f"e{n}") for n in range(start, start + 10)])
        assert 100 <= count(tmp_path / "broker.db", "TRUE") <= 120


async def test_new_event_ids_move_on_from_the_small_bucket_that_they_enter(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL"), ManualClock()) as broker:
        for start in range(0, 21_000, 3_000):
            await broker.append(TOPIC, [new("x", event_id=f"e{n}") for n in range(start, start + 3_000)])
        assert count(tmp_path / "broker.db", "bucket = 0") < 13_000
        assert count(tmp_path / "broker.db", "TRUE") == 21_000

"""Sessions of the embedded broker that end: who is dead, who is not, and what a reboot is charged to."""

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from pspf.clock import ManualClock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.connectors.sqlite.liveness import MemoryLiveness, Sign
from pspf.connectors.sqlite.membership import Renewal
from pspf.connectors.sqlite.reaper import Reaper
from pspf.connectors.sqlite.storage import Storage
from tests.support.brokers import KINDS, World
from tests.support.workers import HANDLER, TOPIC, Member, numbered, own, settle, share, take_batch

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def world(tmp_path: Path, clock: ManualClock) -> AsyncIterator[World]:
    """A broker's file, and a second process's view of it where a test opens one."""
    (kind,) = [kind for kind in KINDS if kind.name == "sqlite"]
    opened = World(kind, tmp_path, Limits(synchronous="NORMAL"), clock)
    await opened.start()
    yield opened
    await opened.stop()


def boot_again(folder: Path) -> None:
    """Make all sessions those of a machine that has booted since."""
    connection = apsw.Connection(str(folder / "broker.db"))
    connection.execute("UPDATE sessions SET boot_id = 'before'").fetchall()
    connection.close()


async def join(world: World, handler: str | None) -> Member:
    return await own(world.broker, handler=handler) if handler else await share(world.broker)


@MODES
async def test_a_reboot_is_no_crash_of_what_ran(world: World, tmp_path: Path, handler: str | None) -> None:
    await world.broker.append(TOPIC, numbered(3))
    member = await join(world, handler)
    await take_batch(member.consumer)
    member.session.abandon()
    boot_again(tmp_path)
    await world.pass_time(2_000)
    batch = await take_batch((await join(world, handler)).consumer)
    assert (len(batch.records), batch.suspect, batch.crashes) == (3, False, 0)


async def test_a_session_from_before_a_reboot_is_dead_at_once_whatever_its_lock_says(
    world: World, tmp_path: Path
) -> None:
    """Locks of files on a network are kept by other machines, or by none."""
    await world.broker.append(TOPIC, numbered(3))
    other = await world.open_other()
    await own(other)
    boot_again(tmp_path)
    await world.pass_time(1_000)
    assert len((await take_batch((await own(world.broker)).consumer)).records) == 3


async def test_a_session_that_renewed_while_it_was_taken_for_dead_keeps_what_it_has(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    member = await own(world.broker)
    batch = await take_batch(member.consumer)
    broker = world.broker
    assert isinstance(broker, SQLiteBroker)
    engine = broker._engine

    def renew(storage: Storage) -> None:
        storage.run("UPDATE sessions SET renewals = renewals + 1")

    class Late(MemoryLiveness):
        """Says that a session is dead, which renews right then."""

        def look(self, session: str) -> Sign:
            engine.write_now(renew)
            return Sign.DEAD

    clock, late = engine.clock, Late()
    Reaper(late, Renewal(late, clock, 1_000), clock, world.limits, broker._boot_id).run(broker._engine)
    await member.consumer.commit(settle(batch.records, position=batch.end))

"""Replays of trimmed records that are cut off: each comes once, with its bytes, whatever is lost on the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pspf import faults
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.errors import BackendUnavailable
from pspf.faults import InjectedFault
from pspf.records import Cursor
from tests.faults.test_valkey_replies import CUTS, commit_until_known
from tests.faults.valkey import Site, scripts
from tests.support.proxy import Loss
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    emit,
    letter,
    new,
    offsets,
    own,
    read_all,
    read_lag,
    settle,
    share,
    take_batch,
    values,
)

MODES = pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])


async def join(broker: Broker, handler: str | None) -> Consumer:
    """Join shared or ordered."""
    return (await own(broker, handler=handler) if handler else await share(broker)).consumer


async def bury_and_trim(broker: Broker, handler: str | None) -> None:
    """Have a group give up one record, and trim it."""
    await broker.append(TOPIC, [new("a", "k")])
    member = await own(broker, handler=handler) if handler else await share(broker)
    batch = await take_batch(member.consumer)
    dead = letter(batch.records[0], handler=handler or "app.bill")
    await member.consumer.commit(settle(dead=[dead], position=batch.end if handler else None))
    await member.session.close()
    assert (await broker.operations.trim(TOPIC, 0, max_records=0)).records == 1


async def check_comes_once(broker: Broker, handler: str | None) -> None:
    """Check that the record comes and is done, and that nothing is left of it."""
    consumer = await join(broker, handler)
    batch = await take_batch(consumer)
    assert values(batch.records) == ["a"]
    assert not await consumer.commit(settle(batch.records, position=batch.end if handler else None))
    assert (await take_batch(consumer)).records == ()
    assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 0
    assert list(await broker.list_dead_letters()) == []
    assert await read_all(broker, TOPIC) == []


@pytest.fixture
def _disarmed() -> Iterator[None]:
    yield
    faults.arm(None)


@MODES
@pytest.mark.usefixtures("_disarmed")
@pytest.mark.parametrize("point", ["commit.sent", "commit.reply"])
async def test_a_replay_that_ends_in_the_middle_is_done_or_not_and_can_be_repeated(
    tmp_path: Path, handler: str | None, point: str
) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL")) as broker:
        await bury_and_trim(broker, handler)
        letters = await broker.list_dead_letters()
        faults.arm(f"{point}:1:raise")
        with pytest.raises(InjectedFault):
            await broker.replay_dead_letters(letters)
        faults.arm(None)
        is_done = point == "commit.reply"
        assert len(await broker.list_dead_letters()) == (0 if is_done else 1)
        assert await broker.replay_dead_letters(letters) == (0 if is_done else 1)
        await check_comes_once(broker, handler)


@MODES
@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.name.lower())
async def test_a_replay_whose_request_or_reply_is_lost_takes_effect_once(
    site: Site, handler: str | None, loss: Loss
) -> None:
    async with site.broker() as broker:
        await bury_and_trim(broker, handler)
        letters = await broker.list_dead_letters()
        fault = site.proxy.lose(scripts("replay"), loss, times=3)
        await commit_until_known(lambda: broker.replay_dead_letters(letters))
        assert fault.hit.is_set()
        assert await broker.replay_dead_letters(letters) == 0
        await check_comes_once(broker, handler)


async def test_a_replayed_record_in_a_reply_that_is_lost_is_given_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.broker() as broker:
        await bury_and_trim(broker, None)
        await broker.replay_dead_letters(await broker.list_dead_letters())
        session, consumer = await share(broker)
        fault = site.proxy.lose(scripts("take"), Loss.REPLY)
        found: list[str] = []
        for _ in range(50):
            if found:
                break
            try:
                batch = await take_batch(consumer)
            except BackendUnavailable:
                continue
            found = values(batch.records)
        assert fault.hit.is_set()
        assert found == ["a"]
        assert "came in a reply that was lost" in caplog.text
        assert not await consumer._recover(), "what it knows of stays in its hands"  # type: ignore[attr-defined]
        assert not await consumer.commit(settle(batch.records))
        await session.close()
        assert await read_lag(broker, Cursor(TOPIC, GROUP, None, 0)) == 0


@MODES
@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.name.lower())
async def test_a_commit_of_a_replayed_record_whose_request_or_reply_is_lost_takes_effect_once(
    site: Site, handler: str | None, loss: Loss
) -> None:
    async with site.broker() as broker:
        await bury_and_trim(broker, handler)
        await broker.replay_dead_letters(await broker.list_dead_letters())
        consumer = await join(broker, handler)
        batch = await take_batch(consumer)
        commit = settle(batch.records, emits=[emit(batch.records[0], "out")], position=batch.end if handler else None)
        site.proxy.lose(scripts("commit_ordered" if handler else "commit_shared"), loss, times=2)
        lost, sent = await commit_until_known(lambda: consumer.commit(commit))
        assert not lost
        assert sent == 3
        assert values(await read_all(broker, "alerts")) == ["out"]
        assert await read_lag(broker, Cursor(TOPIC, GROUP, handler, 0)) == 0


async def test_who_was_taken_for_dead_commits_no_replayed_record(site: Site) -> None:
    async with site.broker() as broker:
        await bury_and_trim(broker, None)
        await broker.replay_dead_letters(await broker.list_dead_letters())
        zombie = await share(broker)
        batch = await take_batch(zombie.consumer)
        await zombie.consumer.release()
        heir = await share(broker)
        again = await take_batch(heir.consumer)
        assert offsets(again.records) == offsets(batch.records)
        late = settle(batch.records, emits=[emit(batch.records[0], "late")])
        assert list(await zombie.consumer.commit(late)) == offsets(batch.records)
        kept = settle(again.records, emits=[emit(again.records[0], "kept")])
        assert not await heir.consumer.commit(kept)
        assert values(await read_all(broker, "alerts")) == ["kept"]

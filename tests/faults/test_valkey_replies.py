"""Lost requests and replies, one at a time: nothing is done twice, nothing is passed over."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from pspf import Stream
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.errors import BackendUnavailable, CommitFenced, EmitUnknown
from pspf.records import Cursor, Record, StateKey
from tests.faults.runs import TOPIC, make_events
from tests.faults.valkey import SECONDS_MS, Site, scripts
from tests.support.brokers import leased
from tests.support.proxy import Loss, named
from tests.support.waiting import wait_until
from tests.support.workers import GROUP, HANDLER, emit, numbered, own, read_all, read_state, settle, share, take, values

CUTS = [Loss.REQUEST, Loss.REPLY]

LOST_REPLIES = [1, 3, 10]


@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.name.lower())
@pytest.mark.parametrize("times", LOST_REPLIES)
async def test_an_emit_with_an_id_of_the_callers_is_stored_once_and_returns_its_id(
    site: Site, times: int, loss: Loss
) -> None:
    async with Stream(site.backend()) as stream:
        fault = site.proxy.lose(scripts("append", "append_once"), loss, times=times)
        emitted = await stream.emit({"event_id": "one", "n": 1})
        assert fault.seen > times
        assert [record.id for record in await read_all(stream.broker, TOPIC)] == [emitted]


async def test_an_emit_without_an_id_is_sent_once_and_says_that_its_outcome_is_unknown(site: Site) -> None:
    async with Stream(site.backend()) as stream:
        await stream.emit({"n": 1})  # from here on the server knows the script
        fault = site.proxy.lose(scripts("append", "append_once"), Loss.REPLY)
        with pytest.raises(EmitUnknown):
            await stream.emit({"n": 2})
        assert fault.seen == 1
        assert len(await read_all(stream.broker, TOPIC)) == 2
        await stream.emit({"n": 3})
        assert len(await read_all(stream.broker, TOPIC)) == 3


async def test_emits_of_many_tasks_share_a_lost_reply_and_none_is_stored_twice(site: Site) -> None:
    async with Stream(site.backend()) as stream:
        await stream.emit({"n": -1})
        site.proxy.lose(scripts("append", "append_once"), Loss.REPLY, nth=5)
        ids = await asyncio.gather(*[stream.emit({"event_id": f"e{n}", "n": n}) for n in range(100)])
        stored = [record.id for record in await read_all(stream.broker, TOPIC)][1:]
        assert sorted(ids) == sorted(stored)


@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.name.lower())
async def test_a_lost_read_of_new_records_passes_nothing_over(site: Site, loss: Loss) -> None:
    events = make_events(300, 7)
    await site.fill(events)
    picks = named("XREADGROUP", "XRANGE")
    faults = [site.proxy.lose(picks, loss, nth=n) for n in (1, 4, 9, 15)]
    async with site.working():
        await site.finish()
    assert all(fault.hit.is_set() for fault in faults)
    await site.check(events)


async def test_what_a_cancelled_poll_is_given_is_in_hand_and_needs_no_recovery(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with site.broker() as broker:
        member = await share(broker)
        polling = asyncio.create_task(member.consumer.poll(max_records=1, timeout_ms=5_000))
        await asyncio.sleep(0.1)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        polling = asyncio.create_task(member.consumer.poll(max_records=1, timeout_ms=5_000))
        await asyncio.sleep(0)
        await broker.append(member.consumer.cursor.topic, numbered(3))
        assert values([*(await polling).records, *await take(member.consumer)]) == ["0", "1", "2"]
    assert "came in a reply that was lost" not in caplog.text


@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.name.lower())
async def test_a_lost_commit_of_either_mode_takes_effect_once(site: Site, loss: Loss) -> None:
    events = make_events(300, 7)
    await site.fill(events)
    picks = scripts("commit_ordered"), scripts("commit_shared")
    faults = [site.proxy.lose(each, loss, nth=n) for each in picks for n in (2, 5, 6, 9)]
    async with site.working():
        await site.finish()
    assert all(fault.hit.is_set() for fault in faults)
    await site.check(events)


async def commit_until_known(commit: Callable[[], Awaitable[object]]) -> tuple[object, int]:
    """Send a commit again until it is answered; return the answer and how often it was sent."""
    for sent in range(1, 20):
        try:
            return await commit(), sent
        except BackendUnavailable:
            continue
    raise AssertionError("no answer to 20 commits")


@pytest.mark.parametrize("times", LOST_REPLIES)
async def test_an_ordered_commit_whose_reply_is_lost_is_known_when_it_comes_again(site: Site, times: int) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(3, keys=["a"]))
        session, consumer = await own(broker, topic=TOPIC)
        records = await take(consumer)
        state: dict[StateKey, bytes | None] = {(b"a", "sum"): b"3"}
        commit = settle(
            records, position=records[-1].offset + 1, emits=[emit(record, "out") for record in records], state=state
        )
        site.proxy.lose(scripts("commit_ordered"), Loss.REPLY, times=times)
        _, sent = await commit_until_known(lambda: consumer.commit(commit))
        assert sent == times + 1
        assert values(await read_all(broker, "alerts")) == ["out"] * 3
        assert await read_state(consumer, [b"a"]) == {b"a": {"sum": b"3"}}
        # The next one counts: the cursor's sequence went on once.
        await broker.append(TOPIC, numbered(1, keys=["a"], start=3))
        more = await take(consumer)
        await consumer.commit(settle(more, position=more[-1].offset + 1))
        await session.close()


@pytest.mark.parametrize("times", LOST_REPLIES)
async def test_a_shared_commit_whose_reply_is_lost_is_known_when_it_comes_again(site: Site, times: int) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(3))
        session, consumer = await share(broker, topic=TOPIC)
        records = await take(consumer)
        commit = settle(records, emits=[emit(record, "out") for record in records])
        site.proxy.lose(scripts("commit_shared"), Loss.REPLY, times=times)
        lost, sent = await commit_until_known(lambda: consumer.commit(commit))
        assert (list(lost), sent) == ([], times + 1)  # type: ignore[call-overload]
        assert values(await read_all(broker, "alerts")) == ["out"] * 3
        await session.close()


async def test_a_commit_that_arrives_after_the_next_owners_changes_nothing(site: Site) -> None:
    async with site.broker() as zombies, site.broker(direct=True) as others:
        await zombies.append(TOPIC, numbered(4, keys=["a"]))
        _, old = await own(zombies, topic=TOPIC)
        records = await take(old)
        late = settle(
            records,
            position=records[-1].offset + 1,
            emits=[emit(records[0], "late")],
            state={(b"a", "sum"): b"99"},
        )
        held = site.proxy.lose(scripts("commit_ordered"), Loss.HOLD)
        sending = asyncio.create_task(old.commit(late))
        await asyncio.to_thread(held.wait)
        site.proxy.darken()  # no renewal passes either
        successor = await others.open_session()
        await successor.register(TOPIC, GROUP, HANDLER)

        taken: list[Consumer] = []

        async def takes_over() -> bool:
            consumer = await leased(successor).acquire(Cursor(TOPIC, GROUP, HANDLER, 0))
            taken.extend([] if consumer is None else [consumer])
            return consumer is not None

        await wait_until(takes_over, timeout_ms=SECONDS_MS)
        (new,) = taken
        again = await take(new)
        assert values(again) == values(records)
        await new.commit(settle(again, position=again[-1].offset + 1, state={(b"a", "sum"): b"6"}))
        site.proxy.lighten()
        site.proxy.release(held)
        with pytest.raises((CommitFenced, BackendUnavailable)):
            await sending
        with pytest.raises(CommitFenced):
            await commit_until_known(lambda: old.commit(late))
        assert await read_all(others, "alerts") == []
        assert await read_state(new, [b"a"]) == {b"a": {"sum": b"6"}}
        await successor.close()


async def test_a_shared_commit_that_arrives_after_a_take_over_counts_for_nothing(site: Site) -> None:
    async with site.broker() as zombies, site.broker(direct=True) as others:
        await zombies.append(TOPIC, numbered(4))
        _, old = await share(zombies, topic=TOPIC)
        records = await take(old)
        late = settle(records, emits=[emit(record, "late") for record in records])
        held = site.proxy.lose(scripts("commit_shared"), Loss.HOLD)
        sending = asyncio.create_task(old.commit(late))
        await asyncio.to_thread(held.wait)
        site.proxy.darken()
        _, new = await share(others, topic=TOPIC)
        taken: list[Record] = []

        async def has_taken_all() -> bool:
            taken.extend(await take(new))
            return len(taken) == len(records)

        await wait_until(has_taken_all, timeout_ms=SECONDS_MS)
        assert not await new.commit(settle(taken[:2], emits=[emit(record, "new") for record in taken[:2]]))
        site.proxy.lighten()
        site.proxy.release(held)
        await asyncio.wait([sending])
        assert values(await read_all(others, "alerts")) == ["new"] * 2
        assert not await new.commit(settle(taken[2:], emits=[emit(record, "new") for record in taken[2:]]))
        assert values(await read_all(others, "alerts")) == ["new"] * 4


@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.name.lower())
async def test_a_lost_reply_to_who_takes_a_cursor_keeps_it_from_nobody(site: Site, loss: Loss) -> None:
    events = make_events(100, 7)
    await site.fill(events, partitions=1)
    fault = site.proxy.lose(scripts("acquire"), loss)
    async with site.working(2):
        await site.finish(within_ms=20_000)
    assert fault.seen > 1
    await site.check(events)


async def test_a_cursor_that_could_not_be_given_back_is_given_back_when_the_server_answers_again(site: Site) -> None:
    events = make_events(100, 7)
    await site.fill(events, partitions=4)
    async with site.working():
        await site.finish()
        fault = site.proxy.lose(scripts("hold_ordered"), Loss.REQUEST, times=2)
        async with site.working():  # takes two of the four, once they were held for long enough
            async with site.broker(direct=True) as broker:
                await wait_until(lambda: _are_shared_out(broker), timeout_ms=40_000)
            assert fault.seen >= 2


async def _are_shared_out(broker: Broker) -> bool:
    owners = [info.owner for info in await broker.list_cursors(group="sums")]
    return len(owners) == 4 and sorted(Counter(owners).values()) == [2, 2] and None not in owners

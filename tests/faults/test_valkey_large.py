"""Whatever there is much of, a server computes for a moment only, and answers others between."""

from typing import Final

import pytest

from pspf.admin.letters import MAX_LISTED, read_digest
from pspf.cli.services.dead_letters import select
from pspf.connectors.valkey.log.fields import format_entry_id
from pspf.connectors.views import LetterFilter
from pspf.errors import BackendUnavailable, CommitStale
from pspf.records import Cursor, Retry
from tests.faults.large import FAR_MS, KEYS, MANY, Meter, fill_waiting
from tests.faults.valkey import Site, scripts
from tests.support.proxy import Loss
from tests.support.workers import (
    GROUP,
    HANDLER,
    TOPIC,
    letter,
    new,
    numbered,
    own,
    read_cursor,
    read_state,
    retry,
    settle,
    share,
    take,
    values,
)

CURSOR: Final = Cursor(TOPIC, GROUP, HANDLER, 0)
LETTERS: Final = 50_000
LARGE: Final = b"x" * 900_000
_COPY: Final = """
local entries = redis.call('XRANGE', KEYS[1], '-', '+')
for number = 1, ARGV[1] + ARGV[2] do
  redis.call('XADD', KEYS[1], '*', unpack(entries[number <= tonumber(ARGV[2]) and 1 or 2][2]))
end
"""
MOMENT_MS: Final = 40
"""Twice what is aimed at: the processor's own speed is not ours."""


async def test_a_cursor_with_very_much_held_back_is_taken_in_steps(site: Site) -> None:
    await fill_waiting(site)
    with Meter(site.server) as meter:
        async with Site(site.server, meter, site.database).broker() as broker:
            member = await own(broker)
            held = member.consumer.lease.held  # type: ignore[union-attr]
            assert len(held) == MANY
            assert [row.due_ms for row in held[: KEYS + 1]] == [FAR_MS] * KEYS + [None]
            assert [row.offset for row in held] == sorted(row.offset for row in held)
    assert meter.ms < MOMENT_MS, meter.longest


@pytest.mark.parametrize("handler", [None, HANDLER])
async def test_very_much_that_waits_is_trimmed_and_sought_past_in_steps(site: Site, handler: str | None) -> None:
    await fill_waiting(site, handler=handler)
    with Meter(site.server) as meter:
        async with Site(site.server, meter, site.database).broker() as broker:
            cursor = Cursor(TOPIC, GROUP, handler, 0)
            planned = await broker.operations.trim(TOPIC, 0, max_records=MANY // 2, drop_unread=True, dry_run=True)
            assert [loss.records for loss in planned.lost] == [MANY // 2]
            kept = await broker.operations.trim(TOPIC, 0, max_records=0, dry_run=True)
            assert (kept.records, kept.held_by) == (0, [cursor])
            trimmed = await broker.operations.trim(TOPIC, 0, max_records=MANY // 2, drop_unread=True)
            assert (trimmed.records, trimmed.lost) == (MANY // 2, planned.lost)
            assert (await read_cursor(broker, cursor)).lag == MANY // 2
            sought = await broker.operations.seek(cursor, 0, force=True)
            assert sought.unfinished == MANY // 2
            assert (await read_cursor(broker, cursor)).lag == MANY // 2
    assert meter.ms < MOMENT_MS, meter.longest


async def test_what_was_held_back_behind_a_dropped_record_is_due_for_the_next_owner(site: Site) -> None:
    """Its first owner did not live to see it."""
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(6, keys=["a", "b"]))
        member = await own(broker)
        records = await take(member.consumer)
        retries = [retry(record, due_ms=FAR_MS if number < 2 else None) for number, record in enumerate(records)]
        await member.consumer.commit(settle(retries=retries, position=records[-1].offset + 1))
        (first,) = await broker.operations.list_pending(GROUP, max_records=1)
        assert await broker.operations.drop_pending([first]) == 1
        with pytest.raises(CommitStale):
            await take(member.consumer)
        await member.consumer.release()
        heir = await own(broker)
        rows: tuple[Retry, ...] = heir.consumer.lease.held  # type: ignore[union-attr, assignment]
        assert [row.due_ms is None for row in rows] == [False, False, True, True, True]
        assert values(await take(heir.consumer)) == ["2"]


async def test_very_much_in_hand_is_given_back_in_steps_before_a_cursor_is_moved(site: Site) -> None:
    async with site.broker(direct=True) as broker:
        await broker.append(TOPIC, numbered(20_000))
        member = await share(broker)
        while await take(member.consumer, 5_000):
            pass
        with Meter(site.server) as meter:
            async with Site(site.server, meter, site.database).broker() as other:
                cursor = Cursor(TOPIC, GROUP, None, 0)
                sought = await other.operations.seek(cursor, 0, force=True)
                assert sought.unfinished == 20_000
                info = await read_cursor(other, cursor)
                assert (info.lag, info.pending) == (20_000, 0)
        assert meter.ms < MOMENT_MS, meter.longest


async def test_state_that_a_seek_has_marked_is_forgotten_before_the_cursor_is_taken(site: Site) -> None:
    """The operator's command may end at any moment: no worker adds to what was to be forgotten."""
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(3_000, keys=[f"k{number}" for number in range(3_000)]))
        member = await own(broker)
        while records := await take(member.consumer):
            state = {(record.raw_key or b"", "total"): b"1" for record in records}
            await member.consumer.commit(settle(records, state=state, position=records[-1].offset + 1))
        await member.consumer.release()
        cut = site.proxy.lose(scripts("forget_entries"), Loss.REQUEST)
        with pytest.raises(BackendUnavailable):
            await broker.operations.seek(CURSOR, 0, keep_state=False, force=True)
        assert cut.seen
    async with site.broker() as broker:
        heir = await own(broker)
        assert await read_state(heir.consumer, [b"k1", b"k2999"]) == {}
        assert len(await take(heir.consumer)) == 1_000


async def test_records_that_others_removed_unread_are_lost_and_in_no_lag(site: Site) -> None:
    """XTRIM under a running owner, XDEL before it and behind it: counted when it has got there."""
    async with site.broker() as broker:
        places = await broker.append(TOPIC, numbered(30))
        ids = [str(n) for n in range(30)]
        stored = [format_entry_id(place.offset) for place in places]
        member = await own(broker)
        first = await take(member.consumer, 5)
        await member.consumer.commit(settle(first, position=first[-1].offset + 1))
        site.server.call("XTRIM", TOPIC, "MINID", stored[10], database=site.database)
        site.server.call("XDEL", TOPIC, stored[14], stored[15], stored[25], database=site.database)
        assert (await read_cursor(broker, CURSOR)).lag == 17
        some = await take(member.consumer, 6)
        assert values(some) == [*ids[10:14], *ids[16:18]]
        await member.consumer.commit(settle(some, position=some[-1].offset + 1))
        assert (await read_cursor(broker, CURSOR)).lag == 11
        rest = await take(member.consumer)
        await member.consumer.commit(settle(rest, position=rest[-1].offset + 1))
        assert (await broker.operations.read_info()).lost == 8
        await broker.append(TOPIC, numbered(4))
        assert (await read_cursor(broker, CURSOR)).lag == 4
        (one, *_) = await take(member.consumer)
        await member.consumer.commit(settle([one], position=one.offset + 1))
        assert (await read_cursor(broker, CURSOR)).lag == 3
        assert (await broker.operations.read_info()).lost == 8


async def test_the_lag_is_right_after_a_trim_under_a_running_owner(site: Site) -> None:
    async with site.broker() as broker:
        places = await broker.append(TOPIC, numbered(30))
        member = await own(broker)
        first = await take(member.consumer, 5)
        site.server.call("XTRIM", TOPIC, "MINID", format_entry_id(places[10].offset), database=site.database)
        await member.consumer.commit(settle(first, position=first[-1].offset + 1))
        some = await take(member.consumer, 6)
        await member.consumer.commit(settle(some, position=some[-1].offset + 1))
        assert (await read_cursor(broker, CURSOR)).lag == 14
        assert (await broker.operations.read_info()).lost == 5


async def test_very_many_dead_letters_are_listed_in_pages(site: Site) -> None:
    async with site.broker() as broker:
        await broker.append(TOPIC, [new(LARGE)])
        member = await share(broker)
        (record,) = await take(member.consumer)
        await member.consumer.commit(settle(dead=[letter(record)]))
        await broker.append(TOPIC, [new("1")])
        (record,) = await take(member.consumer)
        await member.consumer.commit(settle(dead=[letter(record)]))
        with site.server.client(database=site.database) as client:
            client.eval(_COPY, 1, f"{TOPIC}-dlq", LETTERS, 30)
    with Meter(site.server) as meter:
        async with Site(site.server, meter, site.database).broker() as broker:
            digest = await read_digest(broker, LetterFilter(TOPIC))
            assert (digest.total, len(digest.newest)) == (LETTERS + 32, MAX_LISTED)
            listed = await select(broker, LetterFilter(TOPIC), is_whole=False)
            assert len(listed) == LETTERS + 32
            assert sum(len(each.record.value) + len(each.traceback) for each in listed) == 0
    assert meter.ms < MOMENT_MS, meter.longest

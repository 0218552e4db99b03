"""Records that are taken out of the log while a cursor waits for them: it goes on without them.

Dead letters are, where they are replayed or purged while somebody who subscribes to them has them in retry.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pspf.clock import ManualClock
from pspf.connectors.contract.broker import Broker
from pspf.errors import CommitStale
from pspf.records import Cursor
from tests.support.brokers import needs
from tests.support.workers import (
    HANDLER,
    TOPIC,
    Member,
    letter,
    new,
    own,
    read_lag,
    retry,
    settle,
    share,
    take,
    values,
)

LETTERS = f"{TOPIC}-dlq"
WATCH = "watchers"


async def purge(broker: Broker, count: int) -> None:
    await broker.purge_dead_letters((await broker.list_dead_letters())[:count])


async def replay(broker: Broker, count: int) -> None:
    await broker.replay_dead_letters((await broker.list_dead_letters())[:count])


Remove = Callable[[Broker, int], Coroutine[Any, Any, None]]
REMOVALS = pytest.mark.parametrize("remove", [purge, replay])


async def bury(broker: Broker, count: int) -> None:
    """Make `count` dead letters, all of one key."""
    await broker.append(TOPIC, [new(str(number), "a") for number in range(count)])
    member = await own(broker, handler=HANDLER)
    records = await take(member.consumer)
    await member.consumer.commit(settle(dead=[letter(record) for record in records], position=count + 1))
    await member.session.close()


async def watch(broker: Broker, handler: str | None) -> Member:
    if handler is None:
        return await share(broker, topic=LETTERS, group=WATCH)
    return await own(broker, topic=LETTERS, group=WATCH, handler=handler)


async def read_again(broker: Broker, member: Member, handler: str | None) -> Member:
    """Read until the cursor has found out; return who holds it now."""
    for _ in range(3):
        try:
            records = await take(member.consumer)
            end = records[-1].offset + 1 if records and handler else None
            await member.consumer.commit(settle(records, position=end))
        except CommitStale:
            await member.consumer.release()
            member = await watch(broker, handler)
    return member


@needs("shared", "retries", "replay")
@REMOVALS
@pytest.mark.parametrize("handler", [None, "app.watch"], ids=["shared", "ordered"])
async def test_a_cursor_does_not_wait_for_records_that_are_gone(
    broker: Broker, clock: ManualClock, handler: str | None, remove: Remove
) -> None:
    await bury(broker, 3)
    member = await watch(broker, handler)
    first, *later = await take(member.consumer)
    end = None if handler is None else later[-1].offset + 1
    due_ms = None if handler else clock.now_ms() + 5_000
    waiting = [retry(first, due_ms=clock.now_ms() + 5_000), *(retry(each, due_ms=due_ms, attempts=1) for each in later)]
    await member.consumer.commit(settle(retries=waiting, position=end))
    await remove(broker, 3)
    clock.advance(6_000)
    await read_again(broker, member, handler)
    assert await read_lag(broker, Cursor(LETTERS, WATCH, handler, 0)) == 0


@needs("shared", "ordered", "retries", "replay")
@REMOVALS
async def test_what_is_held_back_behind_a_record_that_is_gone_comes(
    broker: Broker, clock: ManualClock, remove: Remove
) -> None:
    await bury(broker, 2)
    member = await watch(broker, "app.watch")
    first, second = await take(member.consumer)
    waiting = [retry(first, due_ms=clock.now_ms() + 5_000), retry(second, due_ms=None, attempts=0)]
    await member.consumer.commit(settle(retries=waiting, position=second.offset + 1))
    await remove(broker, 1)
    clock.advance(6_000)
    for _ in range(2):
        try:
            records = await take(member.consumer)
        except CommitStale:
            await member.consumer.release()
            member = await watch(broker, "app.watch")
    assert values(records) == ["1"]


@needs("shared", "ordered", "retries", "replay")
@REMOVALS
async def test_a_record_that_is_given_back_and_gone_holds_nothing_up(broker: Broker, remove: Remove) -> None:
    await bury(broker, 1)
    member = await watch(broker, None)
    (record,) = await take(member.consumer)
    await member.consumer.commit(settle(retries=[retry(record, due_ms=1)]))
    assert len(await take(member.consumer)) == 1
    await member.session.close()
    await remove(broker, 1)
    member = await watch(broker, None)
    assert values(await take(member.consumer)) == []
    assert await read_lag(broker, Cursor(LETTERS, WATCH, None, 0)) == 0

"""Groups: where they start, who is in them, and who is seen."""

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import END
from pspf.errors import ConfigurationError
from pspf.records import Cursor
from tests.support.brokers import World, leased, needs
from tests.support.workers import GROUP, HANDLER, TOPIC, Member, acquire, numbered, own, share, take_all, values


async def join(broker: Broker, handler: str | None, start: str) -> Member:
    """Join at `start`, shared or ordered."""
    session = await broker.open_session()
    await session.register(TOPIC, GROUP, handler, start=start)
    cursor = Cursor(TOPIC, GROUP, handler, 0)
    consumer = await acquire(session, cursor) if handler else await session.share(cursor)
    assert consumer is not None
    return Member(session, consumer)


@pytest.mark.parametrize("handler", [None, HANDLER])
async def test_a_group_starts_at_the_first_retained_record(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await join(broker, handler, "start")
    assert values(await take_all(member.consumer)) == ["0", "1", "2"]


@pytest.mark.parametrize("handler", [None, HANDLER])
async def test_a_group_that_starts_at_the_end_gets_new_records_only(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    member = await join(broker, handler, END)
    assert values(await take_all(member.consumer)) == []
    await broker.append(TOPIC, numbered(2, start=3))
    assert values(await take_all(member.consumer)) == ["3", "4"]


@pytest.mark.parametrize("handler", [None, HANDLER])
async def test_a_group_that_starts_at_an_id_gets_that_record_first(broker: Broker, handler: str | None) -> None:
    placed = await broker.append(TOPIC, numbered(5))
    member = await join(broker, handler, placed[3].id)
    assert values(await take_all(member.consumer)) == ["3", "4"]


@needs("leases")
@pytest.mark.parametrize("handler", [None, HANDLER])
async def test_start_counts_only_where_the_cursor_is_made(broker: Broker, handler: str | None) -> None:
    await broker.append(TOPIC, numbered(3))
    first = await broker.open_session()
    await first.register(TOPIC, GROUP, handler)
    member = await join(broker, handler, END)
    assert values(await take_all(member.consumer)) == ["0", "1", "2"]


@needs("shared")
async def test_a_start_that_is_none_is_refused(broker: Broker) -> None:
    session = await broker.open_session()
    with pytest.raises(ConfigurationError, match="yesterday"):
        await session.register(TOPIC, GROUP, None, start="yesterday")


@needs("shared")
@pytest.mark.parametrize("group", ["", "a b", "g\n", "{g}"])
async def test_a_group_of_a_bad_name_is_refused(broker: Broker, group: str) -> None:
    session = await broker.open_session()
    with pytest.raises(ConfigurationError):
        await session.register(TOPIC, group, None)


@needs("shared")
async def test_every_group_gets_every_record(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    for group in ("a", "b"):
        member = await share(broker, group=group)
        assert values(await take_all(member.consumer)) == ["0", "1", "2"]


async def test_session_ids_are_unique(broker: Broker) -> None:
    ids = {(await broker.open_session()).id for _ in range(20)}
    assert len(ids) == 20


async def test_a_session_may_be_named(broker: Broker) -> None:
    assert (await broker.open_session("shop")).id.startswith("shop-")


@needs("shared", "ordered", "leases")
async def test_members_are_the_live_sessions_sorted(world: World) -> None:
    one, two = await share(world.broker), await share(await world.open_other())
    await own(world.broker)
    await share(world.broker, group="other")
    assert await leased(one.session).read_members(TOPIC, GROUP, None) == sorted([one.session.id, two.session.id])
    await two.session.close()
    assert await leased(one.session).read_members(TOPIC, GROUP, None) == [one.session.id]


@needs("ordered", "leases")
async def test_who_resigned_is_no_member_and_keeps_what_it_holds_until_it_is_given_back(world: World) -> None:
    await world.broker.append(TOPIC, numbered(1))
    leaving, other = await own(world.broker), await (await world.open_other()).open_session()
    await other.register(TOPIC, GROUP, HANDLER)
    await leased(leaving.session).resign(TOPIC, GROUP, HANDLER)
    assert await leased(other).read_members(TOPIC, GROUP, HANDLER) == [other.id]
    assert await leased(other).read_free(TOPIC, GROUP, HANDLER) == []
    await take_all(leaving.consumer)
    await leaving.consumer.release()
    assert await leased(other).read_free(TOPIC, GROUP, HANDLER) == [0]


@needs("shared", "leases")
async def test_an_abandoned_session_is_no_member_after_its_lease(world: World) -> None:
    one, two = await share(world.broker), await share(world.broker)
    two.session.abandon()
    await world.expire_leases()
    await take_all(one.consumer)
    assert await leased(one.session).read_members(TOPIC, GROUP, None) == [one.session.id]


@needs("shared", "ordered")
async def test_consumers_are_listed_while_they_live(broker: Broker) -> None:
    await broker.append(TOPIC, numbered(3))
    shared, ordered = await share(broker), await own(broker, group="other")
    await take_all(shared.consumer)
    listed = {info.consumer: info for info in await broker.list_consumers()}
    assert set(listed) == {shared.session.id, ordered.session.id}
    info = listed[shared.session.id]
    assert (info.topic, info.group, info.handler, info.pending) == (TOPIC, GROUP, None, 3)
    assert listed[ordered.session.id].handler == HANDLER
    assert [info.group for info in await broker.list_consumers(group="other")] == ["other"]
    await shared.session.close()
    await ordered.session.close()
    assert list(await broker.list_consumers()) == []


@needs("shared")
async def test_closing_a_session_twice_is_safe(broker: Broker) -> None:
    member = await share(broker)
    await member.session.close()
    await member.session.close()


async def test_opening_and_closing_a_broker_twice_is_safe(world: World) -> None:
    await world.broker.connect()
    await world.broker.ping()
    await world.broker.close()
    await world.broker.close()
    await world.broker.connect()
    await world.broker.ping()

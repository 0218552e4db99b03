"""Dead letters that are given a new start: those whose record is gone, and those that are none of a record."""

from dataclasses import replace

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.letters import replay_batch
from pspf.errors import ConfigurationError, Refused
from pspf.records import NewRecord
from tests.support.brokers import World, needs
from tests.support.workers import TOPIC, letter, new, own, read_all, settle, take_all, take_batch, values

pytestmark = needs("replay")


async def bury(broker: Broker, *records: NewRecord, is_result: bool = False) -> None:
    """Append records, and have an ordered handler give them up."""
    await broker.append(TOPIC, records)
    member = await own(broker)
    batch = await take_batch(member.consumer)
    dead = [replace(letter(record), is_result=is_result) for record in batch.records]
    await member.consumer.commit(settle(dead=dead, position=batch.end))
    await member.session.close()


async def letters_of(broker: Broker) -> list[str]:
    return values(each.record for each in await broker.list_dead_letters())


@needs("ordered", "trim")
async def test_a_letter_whose_record_was_trimmed_is_replayed_with_its_own_bytes(world: World) -> None:
    broker = world.broker
    await bury(broker, new("a", "k", timestamp_ms=7, raw_headers=b'{"h":"1"}'), new("b", "k"))
    letters = await broker.list_dead_letters()
    await broker.operations.trim(TOPIC, 0, max_records=1)
    assert values(await read_all(broker, TOPIC)) == ["b"]
    assert await broker.replay_dead_letters(letters) == 2
    assert await letters_of(broker) == []
    found = await take_all((await own(broker)).consumer)
    assert sorted(values(found)) == ["a", "b"]
    (again,) = [record for record in found if record.value == b"a"]
    assert (again.raw_key, again.timestamp_ms, again.raw_headers) == (b"k", 7, b'{"h":"1"}')


@needs("ordered")
async def test_letters_of_results_are_refused_and_keep_no_others_back(world: World) -> None:
    broker = world.broker
    await bury(broker, new("result", "k"), is_result=True)
    await bury(broker, new("record", "k"))
    letters = await broker.list_dead_letters()
    with pytest.raises(Refused, match="--to TOPIC"):
        await broker.replay_dead_letters(letters)
    assert sorted(await letters_of(broker)) == ["record", "result"]
    done, errors = await replay_batch(broker, letters, None)
    assert (done, len(errors)) == (1, 1)
    assert await letters_of(broker) == ["result"]
    assert await broker.replay_dead_letters(await broker.list_dead_letters(), to="out") == 1
    assert values(await read_all(broker, "out")) == ["result"]


@needs("ordered")
@pytest.mark.parametrize("to", ["orders-dlq", "x-dlq", "x-late"])
async def test_letters_are_not_replayed_to_a_topic_of_dead_or_late_records(world: World, to: str) -> None:
    await bury(world.broker, new("a", "k"))
    with pytest.raises(ConfigurationError, match="written by PSPF alone"):
        await world.broker.replay_dead_letters(await world.broker.list_dead_letters(), to=to)
    assert await letters_of(world.broker) == ["a"]

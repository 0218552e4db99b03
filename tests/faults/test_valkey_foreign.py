"""What other programs left under a topic's name, or put into its streams, stops nobody and is named."""

import json
from typing import Final

import pytest

from pspf import BaseEvent, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.errors import BackendCorrupt
from pspf.subscription import Ordering
from tests.faults.runs import TOPIC
from tests.faults.valkey import SECONDS_MS, Site
from tests.integration.running import running
from tests.support.waiting import wait_until
from tests.support.workers import numbered, read_all

HIGH_MS: Final = 2**64 - 2
ODD_TIMES: Final = ("--5", "5" * 5_000, "noon", "", "1e3", "9" * 15, "-99999999999999", "٣")


async def test_a_topic_that_would_be_another_programs_key_is_not_made(site: Site) -> None:
    site.server.call("SET", "cache", "another program's", database=site.database)
    async with site.broker() as broker:
        with pytest.raises(BackendCorrupt, match="'cache', which is a string of another program"):
            await broker.append("cache", numbered(1))
        with pytest.raises(BackendCorrupt, match="'cache'"):
            await broker.create_topic("cache")
        assert [topic.topic for topic in await broker.list_topics()] == []
        await broker.append(TOPIC, numbered(1))


@pytest.mark.parametrize("value", ["1 -", "nonsense", "99999999999999999999 -"])
async def test_one_bad_topic_fails_no_listing(site: Site, value: str) -> None:
    call = site.server.call
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(1))
        session = await broker.open_session()
        for name in ("cache", "cache-dlq"):
            if value == "1 -":
                await broker._core.topics.ensure(name)  # type: ignore[attr-defined]
                await session.register(name, "sums", None)
                call("DEL", name, database=site.database)
            call("SET", name, "another program's", database=site.database)
            call("HSET", "pspf:topics", name, value, database=site.database)
        assert {TOPIC} <= {topic.topic for topic in await broker.list_topics()}
        lags = {info.cursor.topic: info.lag for info in await broker.list_cursors()}
        assert lags in ({"cache": None, "cache-dlq": None}, {})
        assert await broker.list_dead_letters() == []
        await broker.list_consumers()
        await broker.operations.read_info()
        await broker.operations.diagnose()


async def test_deleting_a_bad_topic_heals_it_and_leaves_the_key(site: Site) -> None:
    call = site.server.call
    call("SET", "cache", "another program's", database=site.database)
    call("HSET", "pspf:topics", "cache", "1 -", database=site.database)
    async with site.broker() as broker:
        with pytest.raises(BackendCorrupt, match="cache"):
            await broker.append("cache", numbered(1))
        await broker.operations.delete_topic("cache")
        assert [topic.topic for topic in await broker.list_topics()] == []
    assert call("GET", "cache", database=site.database) == b"another program's"


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_an_entry_that_is_damaged_is_a_dead_letter_with_all_its_fields(site: Site, ordering: Ordering) -> None:
    stream = Stream(StreamingBackend(site.broker(), TOPIC, "sums"))
    seen: list[int] = []

    @stream.subscribe(TOPIC, ordering=ordering)
    async def note(event: BaseEvent) -> None:
        seen.append(event.n)  # type: ignore[attr-defined]

    for text in ODD_TIMES:
        site.server.call("XADD", TOPIC, "*", "data", '{"n": 1}', "ts", text, "key", "k", database=site.database)
    site.server.call("XADD", TOPIC, "*", "data", '{"n": 2}', database=site.database)
    site.server.call("XADD", TOPIC, f"{HIGH_MS}-1", "data", '{"n": 3}', database=site.database)
    async with running(stream), site.broker(direct=True) as broker:

        async def all_are_done() -> bool:
            return [info.lag for info in await broker.list_cursors(group="sums")] == [0]

        await wait_until(all_are_done, timeout_ms=SECONDS_MS)
        letters = await broker.list_dead_letters()
        assert len(await read_all(broker, TOPIC)) == len(ODD_TIMES) + 2
    assert seen == [2, 3]
    said = [json.loads(letter.record.value.partition(b": ")[2]) for letter in letters]
    assert sorted(fields["ts"] for fields in said) == sorted(ODD_TIMES)
    assert all(fields["data"] == '{"n": 1}' for fields in said)


async def test_what_is_no_letter_among_dead_letters_is_passed_over(site: Site) -> None:
    good = {"topic": TOPIC, "partition": "0", "original-offset": "5", "group": "g", "handler": "h", "ordering": "none"}
    good |= {"attempts": "1", "error-type": "E", "error": "e", "traceback": "", "dead-at-ms": "5"}
    odd = [{"partition": "-1"}, {"original-offset": "-5"}, {"original-offset": "9" * 5_000}, {"dead-at-ms": "9" * 30}]
    odd += [{"attempts": "--5"}, {"partition": "x"}]
    async with site.broker() as broker:
        await broker.append(TOPIC, numbered(1))
        await broker._core.topics.ensure(f"{TOPIC}-dlq")  # type: ignore[attr-defined]
        for changed in [{}, *odd]:
            headers = json.dumps({f"pspf-{name}": text for name, text in (good | changed).items()})
            at = ("XADD", f"{TOPIC}-dlq", "*", "data", "{}", "headers", headers)
            site.server.call(*at, database=site.database)
        site.server.call("XADD", f"{TOPIC}-dlq", "*", "data", "{}", "ts", "--5", database=site.database)
        site.server.call("XADD", f"{TOPIC}-dlq", "*", "else", "x", database=site.database)
        assert [letter.group for letter in await broker.list_dead_letters()] == ["g"]
        assert len(await read_all(broker, f"{TOPIC}-dlq")) == 3 + len(odd)

"""Commands that only plan without --execute, and what goes with what they do, on every broker with a URL."""

import asyncio
from typing import Any

import pytest

from pspf.connectors.urls import make_broker
from pspf.subscription import repartition_topic
from tests.process.commands import Folder
from tests.process.test_help import COMMANDS
from tests.support.servers import hall
from tests.support.workers import GROUP, HANDLER, letter, numbered, own, retry, settle, take_batch

HOP = repartition_topic(GROUP, HANDLER)
PLANS = (
    ("groups", "seek", GROUP, "--to", "start", "--topic", "orders", "--reset-state"),
    ("groups", "delete", GROUP),
    ("topics", "trim", "orders", "--max-records", "0", "--drop-unread"),
    ("groups", "rename-handler", "sums", "app.sum", "app.other"),
    ("topics", "alter", "orders", "--retention", "1h"),
    ("topics", "delete", "orders", "--force"),
    ("topics", "repartition", "done", "--partitions", "4", "--reset-state"),
    ("dlq", "purge", "--all"),
    ("pending", "drop", GROUP, "--error", "ValueError"),
)
LOOKS = (
    ("topics", "list"),
    ("topics", "inspect", "orders"),
    ("groups", "inspect"),
    ("dlq", "list"),
    ("state", "list"),
    ("pending", "list", GROUP),
    ("tail", "orders"),
    ("tail", "done"),
    ("tail", HOP),
)


@pytest.fixture(params=["sqlite", "valkey", "redis"])
def url(request: pytest.FixtureRequest, folder: Folder) -> str:
    """A broker with a dead letter, a record that waits for a retry, unread ones, a remembered value and a hop."""
    if request.param == "sqlite":
        url = f"sqlite:///{folder.path}/full.db"
    else:
        shared = hall(request.param)
        url = shared.server.url(database=shared.database_of(folder.path))
    asyncio.run(fill(url))
    return url


async def fill(url: str) -> None:
    async with make_broker(url) as broker:
        await broker.append("done", numbered(3))
        await broker.append("kept", numbered(1))
        await broker.append("orders", numbered(6, keys=["a", "b"]))
        await broker.append(HOP, numbered(2))
        member = await own(broker, topic="orders")
        await member.session.register(HOP, GROUP, HANDLER)
        await member.session.register("kept", "sums", "app.sum")
        batch = await take_batch(member.consumer, 4)
        bad, waiting, *done = batch.records
        commit = settle(
            done,
            dead=[letter(bad)],
            retries=[retry(waiting, due_ms=9_999_999_999_999)],
            state={(b"a", "sum"): b"1"},
            position=batch.end,
        )
        await member.consumer.commit(commit)
        await member.session.close()


def look(folder: Folder, url: str) -> list[Any]:
    """Return all that commands tell of the broker."""
    found = [folder.ok(*words, "--json", "--backend", url).json for words in LOOKS]
    assert all(any(answer.values()) for answer in found), "the broker has some of all"
    for waiting in found[5]["pending"]:
        del waiting["age_ms"]
    return found


def test_a_command_without_execute_changes_nothing(folder: Folder, url: str) -> None:
    before = look(folder, url)
    for words in PLANS:
        planned = folder.ok(*words, "--backend", url)
        assert "--execute" in planned.err, words
        assert look(folder, url) == before, words


def test_every_command_that_plans_is_tried_here(folder: Folder) -> None:
    planning = {words for words in COMMANDS if len(words) > 1 and "--execute" in folder.look(*words, "--help").out}
    assert planning == {(words[0], words[1]) for words in PLANS}


def test_what_is_on_its_way_to_windows_is_deleted_with_their_group(folder: Folder, url: str) -> None:
    told = folder.ok("groups", "delete", GROUP, "--execute", "--backend", url)
    assert HOP in told.err
    assert HOP not in folder.ok("topics", "list", "--backend", url).out


def test_what_is_on_its_way_to_windows_counts_as_done_when_their_state_is_reset(folder: Folder, url: str) -> None:
    """The records come once more from the source: what is on its way from before would be counted beside them."""
    folder.ok("groups", "seek", GROUP, "--to", "start", "--reset-state", "--execute", "--backend", url)
    groups = folder.ok("groups", "inspect", GROUP, "--json", "--backend", url).json["groups"]
    assert {group["topic"]: group["lag"] for group in groups} == {"orders": 6, HOP: 0}

"""A script that fails has written nothing, whatever it is that fails in the middle of it.

Each script call on its way to the server is tried first, over and over: with one command not permitted, with one
of its keys holding another kind of value, with a stream whose ids have come to their end. A try that is refused
must leave all as it was; what a try has written is undone.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest
import redis

from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.format import FORMAT_KEY
from pspf.connectors.valkey.consume.refunds import refund
from pspf.connectors.valkey.consume.upgrade import upgrade
from pspf.connectors.valkey.operations import seeking
from pspf.errors import BackendCorrupt, CommitStale
from pspf.records import Cursor
from tests.faults.valkey import find_scripts
from tests.support.joint import HOME, OTHER, own_both
from tests.support.proxy import Command, Fault, Proxy
from tests.support.servers import Server
from tests.support.windows import with_windows
from tests.support.workers import GROUP, HANDLER, TOPIC, emit, letter, new, own, retry, settle, share, take, take_batch

SECRET: Final = "trial"
CALLS_TRIED: Final = 2
"""So many calls of each script are tried: the first ones."""
HIGHEST: Final = f"{2**64 - 1}-{2**64 - 1}"
_COMMAND: Final = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?")
_WITH_SUB: Final = ("XGROUP", "XINFO")


class Trials(Proxy):
    """A proxy that tries each script call with each damage before it passes it on."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.port)
        server.call("ACL", "SETUSER", "trial", "on", f">{SECRET}", "~*", "&*", "+@all")
        self._admin = server.client()
        self._user = server.client(username="trial", password=SECRET)
        self._scripts = {script.sha.encode(): script for script in find_scripts()}
        self.tried: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.halves: list[str] = []

    def meet(self, command: Command) -> Fault | None:
        if command[0] == b"EVALSHA":
            script = self._scripts[command[1]]
            if self.tried[script.name] < CALLS_TRIED:
                self.tried[script.name] += 1
                count = int(command[2])
                self._try(script.name, script.text, command[3 : 3 + count], command[3 + count :])
        return super().meet(command)

    def _try(self, name: str, text: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> None:
        for what, damaged in self._damages(text, keys):
            saved = self._save()
            with damaged:
                before = self._look()
                try:
                    self._user.eval(text, len(keys), *keys, *arguments)
                except redis.RedisError as error:
                    after = self._look()
                    self.refused[name] += 1
                    if after != before:
                        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
                        self.halves.append(f"{name}, {what}: {changed}: {error}")
            self._restore(saved)

    def _damages(self, text: str, keys: Sequence[bytes]) -> Iterator[tuple[str, Any]]:
        for command in sorted({f"{word}|{sub}" if word in _WITH_SUB else word for word, sub in _COMMAND.findall(text)}):
            yield f"without {command}", self._without(command.lower())
        for key in dict.fromkeys(keys):
            yield f"{key!r} of another kind", self._of_another_kind(key)
            if self._admin.type(key) == b"stream":
                yield f"{key!r} at the end of its ids", self._at_the_end(key)

    @contextmanager
    def _without(self, command: str) -> Iterator[None]:
        self._admin.execute_command("ACL", "SETUSER", "trial", f"-{command}")
        try:
            yield
        finally:
            self._admin.execute_command("ACL", "SETUSER", "trial", f"+{command}")

    @contextmanager
    def _of_another_kind(self, key: bytes) -> Iterator[None]:
        is_text = self._admin.type(key) == b"string"
        self._admin.delete(key)
        if is_text:
            self._admin.rpush(key, "another program's")
        else:
            self._admin.set(key, "another program's")
        yield

    @contextmanager
    def _at_the_end(self, key: bytes) -> Iterator[None]:
        self._admin.execute_command("XSETID", key, HIGHEST)
        yield

    def _save(self) -> Mapping[bytes, tuple[bytes, int]]:
        keys = self._admin.keys()
        with self._admin.pipeline(transaction=False) as asked:
            for key in keys:
                asked.dump(key).pexpiretime(key)
            found = asked.execute()
        return {key: (found[2 * at], max(0, found[2 * at + 1])) for at, key in enumerate(keys)}

    def _restore(self, saved: Mapping[bytes, tuple[bytes, int]]) -> None:
        with self._admin.pipeline(transaction=False) as asked:
            asked.flushdb()
            for key, (value, expires_ms) in saved.items():
                asked.restore(key, expires_ms, value, absttl=bool(expires_ms))
            asked.execute()

    def _look(self) -> dict[bytes, Any]:
        """Return what there is, without what a stream says of entries that it has no more."""
        keys = self._admin.keys()
        with self._admin.pipeline(transaction=False) as asked:
            for key in keys:
                asked.type(key).dump(key)
            told = asked.execute()
        found: dict[bytes, Any] = dict(zip(keys, told[1::2], strict=True))
        for key, kind in zip(keys, told[::2], strict=True):
            if kind != b"stream":
                continue
            groups = self._admin.xinfo_groups(key)
            pending = [
                [
                    (row["message_id"], row["consumer"])
                    for row in self._admin.xpending_range(key, group["name"], "-", "+", 999)
                ]
                for group in groups
            ]
            names = [(group["name"], group["last-delivered-id"], group["consumers"]) for group in groups]
            found[key] = (self._admin.xrange(key), names, pending)
        return {key: value for key, value in found.items() if value != ([], [], [])}


async def test_a_script_that_fails_has_written_nothing(own_server: Callable[..., Server]) -> None:
    server = own_server()
    with Trials(server) as trials:
        broker = ValkeyBroker(ValkeyConnector("127.0.0.1", trials.port), Limits(retention_ms=0), None)
        async with broker:
            await work(broker, trials)
            await work_on_what_others_changed(broker, server)
    assert not trials.halves, "\n".join(trials.halves)
    assert set(trials.tried) == {script.name for script in find_scripts()}
    assert sum(trials.refused.values()) > 500


async def test_a_script_that_fails_on_replayed_records_has_written_nothing(own_server: Callable[..., Server]) -> None:
    server = own_server()
    with Trials(server) as trials:
        async with ValkeyBroker(ValkeyConnector("127.0.0.1", trials.port), Limits(retention_ms=0), None) as broker:
            await work_on_replayed_records(broker, trials)
    assert not trials.halves, "\n".join(trials.halves)
    assert sum(trials.refused.values()) > 150


async def work_on_replayed_records(broker: ValkeyBroker, trials: Trials) -> None:
    """Do what runs a script on records that were trimmed since they were given up; only that is tried."""
    await broker.append(TOPIC, [new(str(n), f"k{n}") for n in range(6)])
    owner, sharer = await own(broker), await share(broker)
    for member, handler in ((owner, HANDLER), (sharer, "app.any")):
        batch = await member.consumer.poll(max_records=10, timeout_ms=0)
        dead = [letter(record, handler=handler) for record in batch.records]
        await member.consumer.commit(settle(dead=dead, position=batch.end if handler == HANDLER else None))
        await member.session.close()
    await broker.operations.trim(TOPIC, 0, max_records=0)
    trials.tried.clear()
    assert await broker.replay_dead_letters(await broker.list_dead_letters()) == 12
    owner = await own(broker)
    records = await take(owner.consumer)
    await owner.consumer.commit(settle(records[1:], retries=[retry(records[0], due_ms=0)]))
    await owner.session.close()
    trials.tried.clear()
    dying, heir = await share(broker), await share(broker)
    records = await take(dying.consumer, 2)
    await dying.consumer.commit(settle(records[:1], retries=[retry(records[1], due_ms=0)]))
    trials.tried.clear()
    await take(heir.consumer, 3)
    await heir.consumer._recover()  # type: ignore[attr-defined]
    await heir.session.close()
    trials.tried.clear()
    lost = await take(dying.consumer, 3)
    await dying.consumer.intend([lost[0].offset])
    dying.consumer._hand.clear()  # type: ignore[attr-defined]
    await dying.consumer._recover()  # type: ignore[attr-defined]
    again = [*await take(dying.consumer, 3), *await take(dying.consumer, 3)]  # the suspect comes alone
    assert len(again) == 4
    operations = broker.operations
    assert await operations.drop_pending((await operations.list_pending(GROUP, topic=TOPIC))[:1]) == 1
    await dying.consumer.commit(settle(again, whole=True))
    await operations.seek(Cursor(TOPIC, GROUP, None, 0), 0, force=True)
    await operations.delete_group(GROUP, topic=TOPIC, force=True)


async def work_on_two_topics(broker: ValkeyBroker, trials: Trials) -> None:
    """Do what runs a script on the cursors of a handler of several topics."""
    for topic in (TOPIC, OTHER):
        await broker.append(topic, [new(str(n), f"k{n}") for n in range(4)])
    assert await broker.operations.set_retention(OTHER, 3_600_000) is None
    slow = await own_both(broker)
    await broker.operations.seek(HOME, 0, keep_state=True, force=True)
    tried = trials.tried.copy()
    trials.tried.clear()
    pair = await own_both(broker)
    first, second = [await take_batch(consumer) for consumer in (pair.home, pair.beside)]
    home = settle(
        first.records[2:],
        retries=[retry(first.records[0], due_ms=0), retry(first.records[1], due_ms=None)],
        position=first.end,
        emits=[emit(first.records[2], "c"), emit(first.records[3], "d", "bills")],
        state={(b"k1", "total"): b"1"},
    )
    late = replace(settle(second.records[1:], position=second.end), late=(new("late"),))
    await pair.home.commit_jointly(home, [(pair.beside, late)])
    home = settle([first.records[0]], dead=[letter(second.records[0])])
    beside = settle([second.records[0]], retries=[retry(second.records[1], due_ms=0)])
    await pair.home.commit_jointly(home, [(pair.beside, beside)])
    assert {"commit_ordered", "acquire"} <= set(trials.tried)
    trials.tried.update(tried)
    for member in (pair, slow):
        await member.session.close()
    letters = await broker.list_dead_letters(topic=OTHER)
    assert await broker.purge_dead_letters(letters) == 1


async def work(broker: ValkeyBroker, trials: Trials) -> None:
    """Do all that runs a script."""
    await broker.roster.publish("worker", b"{}", ttl_ms=10_000)
    await broker.append(TOPIC, [new(str(n), f"k{n % 3}", event_id=f"e{n}") for n in range(12)])
    await broker.append(TOPIC, [new("1"), new("2", raw_headers=b"{}")])
    dying, heir = await share(broker), await share(broker)
    await take(dying.consumer, 3)
    records = await take(heir.consumer, 6)
    given = [emit(records[0], "a"), emit(records[2], "b", "bills")]
    await heir.consumer.commit(
        settle(
            records[:4],
            retries=[retry(records[4], due_ms=0)],
            dead=[letter(records[5], handler="app.any")],
            emits=given,
        )
    )
    await heir.consumer.commit(settle(await take(heir.consumer, 1), whole=True))
    await heir.consumer.intend([records[0].offset])
    await heir.consumer.release()
    await dying.session.close()
    await heir.session.close()

    owner = await own(broker)
    records = await take(owner.consumer)
    commit = settle(
        records[3:],
        retries=[retry(records[1], due_ms=0), retry(records[2], due_ms=None)],
        position=records[-1].offset + 1,
        dead=[letter(records[0])],
        emits=[emit(records[4], "c"), emit(records[5], "d", "bills")],
        state={(b"k1", "total"): b"1", (b"k2", "total"): b"2"},
    )
    states = {0: {b"k": b"1", b"gone": None}, 10: {b"k": b"2"}}
    await owner.consumer.commit(with_windows(commit, 1, b"{}", (20,), states, (new("late"),)))
    await owner.consumer.scan_entries(0)
    await owner.consumer.intend([1])
    await take(owner.consumer)
    await broker.list_cursors()
    await owner.session.close()

    await work_on_two_topics(broker, trials)
    await update_format(broker)
    cursor = Cursor(TOPIC, GROUP, HANDLER, 0)
    assert await broker.replay_dead_letters(await broker.list_dead_letters(group=GROUP)) == 2
    owner = await own(broker)
    records = await take(owner.consumer)
    await owner.consumer.commit(settle(records[1:], dead=[letter(records[0])]))
    await owner.session.close()
    assert await broker.replay_dead_letters(await broker.list_dead_letters(), to="elsewhere") == 1
    operations = broker.operations
    await broker.list_cursors()
    await broker.read_topic(TOPIC)
    await operations.retry_pending(await operations.list_pending(GROUP))
    await operations.drop_pending((await operations.list_pending(GROUP))[:1])
    keys = broker._core.topics.find_known(TOPIC).partitions[0].cursor(GROUP, None)  # type: ignore[union-attr]
    await refund(broker._core.commands, cursor, keys.meta, keys.key(b"suspects"), records[0].offset)
    holder = await share(broker)
    await take(holder.consumer, 2)
    where = [keys.partition.stream, keys.meta, keys.due, keys.key(b"suspects")]
    assert await broker._core.commands.run(seeking._GIVE_BACK, where, [GROUP]) > 0
    await holder.session.close()
    await operations.seek(cursor, 0, keep_state=False, force=True)
    await operations.seek(Cursor(TOPIC, GROUP, None, 0), 0, force=True)
    await broker.append(TOPIC, [new(str(n)) for n in range(20)])
    await operations.trim(TOPIC, 0, max_records=2, drop_unread=True)
    for handler in (None, HANDLER):
        await operations.seek(Cursor(TOPIC, GROUP, handler, 0), 1 << 120, force=True)
    await operations.repartition(TOPIC, 3, reset_state=True)
    await operations.delete_group(GROUP, topic=TOPIC)
    await operations.delete_topic(TOPIC, force=True)


async def update_format(broker: ValkeyBroker) -> None:
    """Bring state and windows of format 3 up to date."""
    core = broker._core
    keys = core.topics.find_known(TOPIC).partitions[0].cursor(GROUP, HANDLER)  # type: ignore[union-attr]
    commands: list[Command] = [
        (b"SADD", keys.key(b"keys"), b"old"),
        (b"HSET", keys.key(b"st", b"old"), b"n", b"1", b"m", b"2"),
        (b"SADD", keys.key(b"slots"), b"30"),
        (b"HSET", keys.key(b"win", b"30"), b"k", b"3"),
        (b"ZADD", keys.key(b"wkeys", b"30"), b"0", b"k"),
        (b"SET", FORMAT_KEY, b"3"),
    ]
    for command in commands:
        await core.commands.call(*command)
    await upgrade(core)
    assert {entry.name for entry in await broker.list_state(key=b"old")} == {"n", "m"}
    assert await broker.read_entries(Cursor(TOPIC, GROUP, HANDLER, 0), [(30, b"k")]) == {(30, b"k"): b"3"}


async def work_on_what_others_changed(broker: ValkeyBroker, server: Server) -> None:
    """Do what runs a script only after somebody else has removed something."""
    await broker.append("moved", [new(str(n), f"k{n}") for n in range(4)])
    taker = await share(broker, topic="moved")
    (record, *_) = await take(taker.consumer, 2)
    ids = [b"-".join((b"%d" % (record.offset >> 64), b"%d" % (record.offset % 2**64)))]
    server.call("XREADGROUP", "GROUP", GROUP, taker.session.id, "COUNT", 1, "STREAMS", "moved", ">")
    await take(taker.consumer)
    server.call("XGROUP", "DESTROY", "moved", GROUP)
    assert len(await take(taker.consumer)) == 4
    owner = await own(broker, topic="moved")
    records = await take(owner.consumer)
    failed = [retry(records[0], due_ms=0), retry(records[1], due_ms=None)]
    await owner.consumer.commit(settle(retries=failed, position=records[-1].offset + 1, state={(b"k1", "total"): b"1"}))
    server.call("XDEL", "moved", *ids)
    with pytest.raises(CommitStale):
        await take(owner.consumer)
    await owner.session.close()
    server.call("DEL", "moved")
    await (await own(broker, topic="moved")).session.close()
    await broker.append("kept", [new("1", "k")])
    owner = await own(broker, topic="kept")
    (record,) = await take(owner.consumer)
    await owner.consumer.commit(settle([record], position=record.offset + 1, state={(b"k", "total"): b"1"}))
    await owner.session.close()
    await broker.operations.rename_handler(GROUP, HANDLER, "app.renamed", topic="kept")
    await broker.operations.delete_group(GROUP, topic="kept")


@pytest.mark.parametrize("damage", [("XADD", "bills", HIGHEST, "data", "{}"), ("SET", "bills", "another program's")])
@pytest.mark.parametrize("ordering", [None, HANDLER])
async def test_nothing_of_a_commit_is_there_when_one_of_its_targets_takes_no_more(
    own_server: Callable[..., Server], ordering: str | None, damage: tuple[str, ...]
) -> None:
    """The commit is the same when it is sent again, so that nothing is lost or doubled once the target is mended."""
    server = own_server()
    async with ValkeyBroker(ValkeyConnector("127.0.0.1", server.port), Limits(), None) as broker:
        await broker.append(TOPIC, [new("1", "k")])
        await broker.append("alerts", [new("0")])
        await broker.create_topic("bills")
        server.call(*damage)
        member = await (own(broker) if ordering else share(broker))
        (record,) = await take(member.consumer)
        position = record.offset + 1 if ordering else None
        commit = settle([record], position=position, emits=[emit(record, "a"), emit(record, "b", "bills")])
        for _ in range(2):
            with pytest.raises(BackendCorrupt, match="bills"):
                await member.consumer.commit(commit)
            assert server.call("XLEN", "alerts") == 1
        server.call("DEL", "bills")
        await member.consumer.commit(commit)
        assert (server.call("XLEN", "alerts"), server.call("XLEN", "bills")) == (2, 1)

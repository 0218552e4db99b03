"""Nothing is sent that Redis 7.0 does not know: no command, no option of one, neither by a client nor by a script."""

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from pspf.records import Cursor
from tests.faults.runs import make_events
from tests.faults.valkey import Site
from tests.process.each import run_here
from tests.support.brokers import leased
from tests.support.proxy import Proxy
from tests.support.servers import Server
from tests.support.workers import GROUP, HANDLER, letter, new, numbered, own, retry, settle, share, take

LIST: Final = Path(__file__).with_name("redis-7.0-commands.txt")
_ARGUMENT: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_OPTION: Final = re.compile(r"[A-Z]{2,}")


def read_known() -> dict[str, frozenset[str]]:
    """Return the commands of Redis 7.0 with their options."""
    lines = [line for line in LIST.read_text(encoding="ascii").splitlines() if not line.startswith("#")]
    split = (line.partition(":") for line in lines)
    return {name: frozenset(options.split()) for name, _, options in split}


def unknown_in(command: list[str], known: dict[str, frozenset[str]]) -> str | None:
    """Return what Redis 7.0 does not know of a command, None where it knows all."""
    name, *arguments = command
    name = name.upper()
    if arguments and f"{name} {arguments[0].upper()}" in known:
        name, arguments = f"{name} {arguments[0].upper()}", arguments[1:]
    elif name not in known or any(other.startswith(f"{name} ") for other in known):
        return f"{name} {' '.join(arguments[:1])}"
    if name in ("EVAL", "EVALSHA", "HELLO"):
        return None  # what a script does is seen by itself
    strange = [each for each in arguments if _OPTION.fullmatch(each) and each not in known[name]]
    return f"{name} {' '.join(strange)}" if strange else None


class Monitor:
    """Notes all that a server is asked to do, by scripts as well, while the block lasts.

    What comes over the unix socket is the tests' own.
    """

    def __init__(self, server: Server) -> None:
        self.commands: list[list[str]] = []
        self._server = server
        self._socket = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._socket.connect(str(self._server.socket_path))
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.call("ECHO", "the end")
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                command = [word.decode("latin-1") for word in _ARGUMENT.findall(line)]
                if command == ["ECHO", "the end"]:
                    return
                if b" unix:" not in line.partition(b"]")[0]:
                    self.commands.append(command)


async def work(site: Site) -> None:
    """Do a bit of everything that a broker does."""
    events = make_events(300, 7)
    await site.fill(events)
    async with site.working(2):
        await site.finish()
    await site.check(events)
    async with site.broker() as broker:
        await broker.create_topic("orders", partitions=2, retention_ms=0)
        await broker.append("orders", [new(str(n), f"k{n}", event_id=f"e{n}", timestamp_ms=n + 1) for n in range(20)])
        for member in (await share(broker), await own(broker)):
            records = await take(member.consumer)
            position = records[-1].offset + 1 if member.consumer.lease else None
            failed = [retry(records[0], due_ms=None if position else 0), retry(records[1], due_ms=0)]
            dead = [letter(records[2], handler=HANDLER if position else "app.any")]
            await member.consumer.commit(settle(records[3:], retries=failed, dead=dead, position=position))
            await leased(member.session).read_members("orders", GROUP, HANDLER if position else None)
            await take(member.consumer)
        dying = await share(broker, topic="orders", group="dying")
        await take(dying.consumer)
        dying.session.abandon()
        site.server.call("DEL", *[key for key in site.server.call("KEYS", "*:live:*") if key], "none")
        heir = await share(broker, topic="orders", group="dying")
        while batch := await take(heir.consumer):
            await heir.consumer.commit(settle(batch))
        letters = await broker.list_dead_letters()
        assert await broker.replay_dead_letters(letters[:1]) == 1
        assert await broker.purge_dead_letters(letters[1:]) == len(letters) - 1
        await broker.find_offset("orders", 0, at_ms=1)
        await broker.list_cursors()
        await broker.list_consumers()
        await broker.list_topics()
        await broker.read_topic("orders")
        await broker.append("orders", numbered(5))
        await broker.wait("orders", timeout_ms=10)
        session = await broker.open_session()
        await session.register("orders", "at-the-end", None, start="end")
        await session.register("orders", GROUP, "another")
        assert await leased(session).acquire(Cursor("orders", GROUP, "another", 0)) is not None
        await session.close()


async def test_nothing_newer_than_redis_7_0_is_sent(own_server: Callable[..., Server]) -> None:
    known = read_known()
    server = own_server()
    with Proxy(server.port, keeps=True) as proxy, Monitor(server) as monitor:
        await work(Site(server, proxy))
    sent = [[word.decode("latin-1") for word in command] for command in proxy.seen]
    names = {command[0].upper() for command in monitor.commands}
    assert {"XADD", "XACK", "XREADGROUP", "EVALSHA", "HSET", "XTRIM"} <= names, "scripts are seen as well"
    unknown = {unknown_in(command, known) for command in sent + monitor.commands} - {None}
    assert not unknown


OPERATORS: Final = (
    ("emit", "numbers", '{"n": 1, "key": "a"}'),
    ("emit", "numbers", '{"n": 1, "key": "a"}', "--id", "one"),
    ("topics", "list"),
    ("topics", "inspect", "numbers"),
    ("groups", "inspect"),
    ("tail", "numbers"),
    ("dlq", "list"),
)


def test_the_commands_of_operators_are_not_newer_either(own_server: Callable[..., Server]) -> None:
    known = read_known()
    server = own_server()
    at = ("--backend", server.url())
    with Monitor(server) as monitor:
        for line in OPERATORS:
            code, _, error = run_here((*line, *at))
            assert code == 0, error
    unknown = {unknown_in(command, known) for command in monitor.commands} - {None}
    assert not unknown


def test_what_is_newer_is_seen() -> None:
    known = read_known()
    assert unknown_in(["XADD", "s", "*", "data", "{}"], known) is None
    assert unknown_in(["XACKDEL", "s", "g", "IDS", "1", "1-1"], known)
    assert unknown_in(["CLIENT", "SETINFO", "LIB-NAME", "x"], known)
    assert unknown_in(["XREADGROUP", "GROUP", "g", "c", "CLAIM", "10", "STREAMS", "s", ">"], known)
    assert unknown_in(["SET", "k", "v", "IFEQ", "x"], known)

"""Passwords, users and certificates that are wrong, from the start on or from one moment to the next."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.errors import BackendUnavailable
from tests.faults.runs import ROOT, TOPIC, make_events
from tests.faults.valkey import QUICK, SECONDS_MS, Site
from tests.integration.running import until
from tests.process.commands import Result
from tests.support import forks
from tests.support.proxy import Proxy
from tests.support.servers import Server, make_certificates
from tests.support.workers import numbered, read_all

OwnServer = Callable[..., Server]
SECRET: Final = "hunter2-and-more"
ADMIN: Final = "user default on nopass ~* &* +@all\n"


def connect(server: Server, **options: object) -> ValkeyBroker:
    """Return a broker on the server's port."""
    return ValkeyBroker(ValkeyConnector("127.0.0.1", server.port, **options), QUICK, None)  # type: ignore[arg-type]


async def test_a_wrong_password_is_said_without_the_password(own_server: OwnServer) -> None:
    server = own_server(users=f"{ADMIN}user app on >{SECRET} ~* &* +@all\n")
    async with connect(server, username="app", password=SECRET) as broker:
        await broker.append(TOPIC, numbered(1))
    wrong = connect(server, username="app", password=f"not-{SECRET}")
    with pytest.raises(BackendUnavailable, match=r"WRONGPASS|[Ii]nvalid username-password") as refusal:
        await wrong.connect()
    assert SECRET not in str(refusal.value)
    assert SECRET not in repr(wrong.name)


async def test_a_worker_that_is_not_let_in_ends_at_once_with_its_own_code(own_server: OwnServer) -> None:
    server = own_server(users=f"{ADMIN}user app on >{SECRET} ~* &* +@all\n")
    worker = run("worker", "tests.faults.app:stream", "--burst", "--in-process", url=login(server, f"no-{SECRET}"))
    assert worker.code == 5, worker.err
    assert SECRET not in worker.err + worker.out


@pytest.mark.parametrize("rule", ["-xadd", "-evalsha", "resetkeys ~other*"])
async def test_what_the_user_may_not_do_is_named(own_server: OwnServer, rule: str) -> None:
    server = own_server(users=f"{ADMIN}user app on >{SECRET} ~* &* +@all {rule}\n")
    emitter = run("emit", TOPIC, '{"n": 1}', url=login(server, SECRET))
    assert emitter.code == 5, emitter.err
    assert rule.strip("-").split()[-1] in emitter.err or "key" in emitter.err, emitter.err
    assert SECRET not in emitter.err + emitter.out


def login(server: Server, password: str) -> str:
    """Return the URL for the user `app`."""
    return server.url(user="app", password=password)


def run(*arguments: str, url: str) -> Result:
    """Run a command of `pspf` to its end."""
    done = forks.run(*arguments, "--backend", url, folder=ROOT, environment=os.environ)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


async def test_a_permission_that_comes_late_is_waited_for(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pspf")  # where it fails, what each loop waits for is the question
    server = own_server(users=f"{ADMIN}user app on >{SECRET} ~* &* +@all\n")
    events = make_events(50, 5)
    with Proxy(server.port) as proxy:
        site = LoggedIn(server, proxy)
        async with site.working():
            await until(lambda: server.call("EXISTS", TOPIC) == 1, within_ms=SECONDS_MS)
            server.call("ACL", "SETUSER", "app", "-xreadgroup", "-pexpire", "-pexpireat", "-xpending")
            await site.fill(events, partitions=1)
            await asyncio.sleep(3)
            server.call("ACL", "SETUSER", "app", "+@all")
            await site.finish()
        await site.check(events)


async def test_a_password_that_is_changed_and_changed_back_is_waited_for(own_server: OwnServer) -> None:
    server = own_server(users=f"{ADMIN}user app on >{SECRET} ~* &* +@all\n")
    events = make_events(600, 9)
    with Proxy(server.port) as proxy:
        site = LoggedIn(server, proxy)
        await site.fill(events)
        async with site.working(2):
            await until(lambda: server.call("EXISTS", "totals") == 1, within_ms=SECONDS_MS)
            server.call("ACL", "SETUSER", "app", "resetpass", ">another")
            server.call("CLIENT", "KILL", "USER", "app")
            await asyncio.sleep(2)
            server.call("ACL", "SETUSER", "app", "resetpass", f">{SECRET}")
            await site.finish()
        await site.check(events)


class LoggedIn(Site):
    """A site whose workers log in as `app`."""

    def backend(self, *_: object, **__: object) -> StreamingBackend:
        connector = ValkeyConnector("127.0.0.1", self.proxy.port, username="app", password=SECRET)
        return StreamingBackend(ValkeyBroker(connector, QUICK, None), TOPIC, "sums")


async def test_tls_is_spoken_and_the_certificate_is_checked(own_server: OwnServer, tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    server = own_server("redis", certificates=files)
    async with connect(server, ssl=True, ssl_ca_certs=str(files.ca)) as broker:
        await broker.append(TOPIC, numbered(3))
        assert len(await read_all(broker, TOPIC)) == 3
    for options in ({"ssl": True}, {}):  # an unknown CA; no TLS at all
        stranger = connect(server, **options)
        with pytest.raises(BackendUnavailable):
            await stranger.connect()
    async with connect(server, ssl=True, ssl_cert_reqs="none") as trusting:
        await trusting.ping()


async def test_a_certificate_that_ran_out_is_refused(own_server: OwnServer, tmp_path: Path) -> None:
    files = make_certificates(tmp_path, days=-1)
    server = own_server("redis", certificates=files)
    broker = connect(server, ssl=True, ssl_ca_certs=str(files.ca))
    with pytest.raises(BackendUnavailable, match="expired"):
        await broker.connect()


async def test_a_unix_socket_is_a_way_in(own_server: OwnServer) -> None:
    server = own_server()
    broker = ValkeyBroker(ValkeyConnector(unix_socket_path=str(server.socket_path)), QUICK, None)
    async with broker:
        await broker.append(TOPIC, numbered(3))
        assert len(await read_all(broker, TOPIC)) == 3

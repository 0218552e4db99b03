"""A password and a token are in nothing that any command writes, whatever goes wrong with them."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from tests.process.commands import Folder
from tests.support.servers import Server, find

SECRET: Final = "hunter2/&more"
TOKEN: Final = "hunter2-admin-token"
NEEDLE: Final = "hunter2"
USERS: Final = f"user default on nopass ~* &* +@all\nuser app on >{SECRET} ~* &* +@all\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with Server(find("valkey"), tmp_path / "server", users=USERS) as running:
        yield running


def url_of(server: Server) -> str:
    return server.url(user="app", password=quote(SECRET, safe=""))


def test_a_worker_that_loses_its_broker_never_tells_the_password(folder: Folder, server: Server) -> None:
    folder.environment |= {"PSPF_BACKEND": url_of(server), "VALKEY_PASSWORD": SECRET, "PSPF_ADMIN_TOKEN": TOKEN}
    folder.ok("emit", "orders", '{"do": "fail", "key": "k"}', "--backend", url_of(server))
    with folder.worker("--log-format", "json", "--log-level", "DEBUG") as worker:
        worker.wait_for("dead after attempt 2/2")
        server.stop()
        worker.wait_for("will try again")
        server.start()
        worker.signal(signal.SIGTERM)
        worker.end()
        written = worker.log.read_text()
    assert "broker: valkey://app@127.0.0.1" in written
    assert NEEDLE not in written
    assert [line for line in written.splitlines() if not line.startswith(("{", "start "))] == []


def test_no_command_tells_the_password_and_no_traceback_does(folder: Folder, server: Server) -> None:
    url = url_of(server)
    folder.environment |= {"PSPF_BACKEND": url, "VALKEY_PASSWORD": SECRET, "PSPF_ADMIN_TOKEN": TOKEN}
    wrong = server.url(user="app", password=f"{NEEDLE}-wrong")
    commands: tuple[tuple[str, ...], ...] = (
        ("--help",),
        ("worker", "--help"),
        ("worker", "--check", "-v"),
        ("version", "--json"),
        ("config", "show"),
        ("config", "show", "--json"),
        ("broker", "info"),
        ("broker", "info", "--json"),
        ("broker", "doctor", "-v"),
        ("workers", "list", "-v"),
        ("health", "ready", "-v"),
        ("topics", "list", "-v", "--backend", wrong),
        ("topics", "list", "-v", "--backend", f"{url}x"),
        ("topics", "list", "-v", "--backend", f"{url}?pwd={NEEDLE}"),
        ("topics", "list", "-v", "--backend", url.replace("//", "/")),
        ("topics", "list", "-v", "--backend", url.replace("valkey:", "valkye:")),
        ("topics", "list", "-v", "--backend", url.replace(f":{server.port}", ":port")),
        ("topics", "list", "-v", "--backend", f"redis://app:{NEEDLE}/and@127.0.0.1:{server.port}/0"),
    )
    for result, command in zip(folder.each(*commands), commands, strict=True):
        assert NEEDLE not in result.out + result.err, command
    server.stop()
    for result in folder.each(("emit", "orders", "{}", "-v"), ("groups", "inspect", "-v"), ("broker", "info", "-v")):
        assert result.code == 4
        assert NEEDLE not in result.out + result.err


def test_a_setting_that_is_refused_is_named_without_its_value(folder: Folder) -> None:
    result = folder.pspf("config", "show", "-v", PSPF_BACKEND=f"redis://:{NEEDLE}@h:1", VALKEY_PORT="many")
    assert result.code == 2
    assert "VALKEY_PORT" in result.err
    assert NEEDLE not in json.dumps([result.out, result.err])

"""What reaches a terminal or a log: no token, nothing that drives it, and no print that ends a record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.commands import APP, Folder

EVIL = "\x9b2J\u202e\u061c\x1b]0;x\x07"


def test_the_token_is_in_no_line_of_a_json_log(folder: Folder) -> None:
    with folder.worker("--log-format", "json", "--admin", "127.0.0.1:0") as worker:
        worker.wait_for("dashboard: http://")
        assert "token=" not in worker.log.read_text()
        assert "PSPF_ADMIN_TOKEN" in worker.log.read_text()


def test_what_was_stored_drives_no_terminal(folder: Folder) -> None:
    (folder.path / "app.py").write_text(
        APP.replace(
            'raise ValueError(f"order {order.n} is bad")', f'raise type("E" + {EVIL!r}, (Exception,), {{}})({EVIL!r})'
        )
    )
    folder.emit(1, do="fail", key=EVIL)
    worker = folder.run("worker", "--burst")
    shown = [worker.err, worker.out]
    for command in (
        ("dlq", "list"),
        ("dlq", "list", "--json"),
        ("dlq", "inspect", "orders/1"),
        ("dlq", "inspect", "orders/1", "--json"),
        ("dlq", "export"),
        ("tail", "orders"),
        ("tail", "orders", "--jsonl"),
        ("tail", "orders", "--format", "%k %v"),
        ("tail", "orders-dlq", "--jsonl"),
        ("topics", "inspect", EVIL),
        ("state", "get", "total", EVIL),
    ):
        found = folder.look(*command)
        shown += [found.out, found.err]
    for text in shown:
        assert not [character for character in text if character in EVIL and not character.isprintable()]
    (exported,) = folder.ok("tail", "orders", "--jsonl").json_lines
    assert exported["key"] == EVIL
    assert json.loads(folder.ok("tail", "orders", "--format", "%v").out)["key"] == EVIL


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_print_to_a_full_disk_ends_no_record(folder: Folder) -> None:
    folder.emit(3)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pspf", "worker", "--burst"],
            cwd=folder.path,
            env=folder.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0
    assert b"standard output can't be written to" in done.stderr
    assert folder.lag()["billing"] == 0
    assert folder.ok("state", "get", "total", "k", "sum").out == "6\n"


def test_one_of_two_topics_is_chosen(folder: Folder) -> None:
    handler = APP[APP.index('@stream.subscribe("orders"') : APP.index('@stream.subscribe("large"')]
    (folder.path / "app.py").write_text(APP + handler.replace('"orders"', '"returns"'))
    folder.emit(2)
    folder.ok("emit", "returns", '{"n": 5, "key": "k"}')
    folder.run("worker", "--burst")
    refused = folder.look("state", "get", "total", "k", "sum")
    assert (refused.code, "add --topic" in refused.err) == (2, True)
    assert folder.ok("state", "get", "total", "k", "sum", "--topic", "returns").out == "5\n"
    assert folder.look("state", "get", "total", "k", "sum", "--topic", "other").code == 6


@pytest.mark.parametrize(
    "arguments",
    [
        ("topics", "redis://u:hunter2@h:1"),
        ("config", "show", "redis://u:hunter2@h:1"),
        ("topics", "list", "--backendredis://u:hunter2@h:1"),
    ],
)
def test_arguments_that_do_not_fit_show_no_password(folder: Folder, arguments: tuple[str, ...]) -> None:
    found = folder.pspf(*arguments)
    assert found.code == 2
    assert "hunter2" not in found.out + found.err
    assert "u:***@h:1" in found.err
    assert found.err.startswith("Usage: pspf ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "code"), [(("bogus",), 2), (("topics", "list"), 6), (("health", "live"), 10), (("version",), 0)]
)
def test_talk_to_a_full_disk_changes_no_exit_code(folder: Folder, arguments: tuple[str, ...], code: int) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pspf", *arguments],
            cwd=folder.path,
            env=folder.environment,
            stdout=subprocess.DEVNULL,
            stderr=full,
            timeout=60,
            check=False,
        )
    assert done.returncode == code

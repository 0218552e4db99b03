"""Help, versions, settings: what every command has in common."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pspf.cli.main import app
from tests.process.commands import Folder


def _names(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of a command and of all below it."""
    yield path
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from _names(below, *path, name)


COMMANDS = list(_names(typer.main.get_command(app)))

CLOSED = """
import os, sys
os.close(int(sys.argv[1]))
os.execv(sys.executable, [sys.executable, "-m", "pspf", *sys.argv[2:]])
"""


def test_every_help_page_ends_with_examples_to_paste(folder: Folder) -> None:
    pages = folder.each(*((*command, "--help") for command in COMMANDS))
    for command, page in zip(COMMANDS, (result.out for result in pages), strict=True):
        examples = page.partition("\nExamples:\n")[2].splitlines()
        assert 2 <= len(examples) <= 3, command
        assert all(line.startswith("  ") and "pspf" in line for line in examples), command


def test_no_summary_of_a_command_is_cut_off(folder: Folder) -> None:
    groups = {path[:-1] for path in COMMANDS if path}
    for page in folder.each(*((*group, "--help") for group in groups)):
        assert "..." not in page.out.partition("\nCommands:\n")[2].partition("\n\n")[0]


def test_every_command_is_in_the_list_of_commands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `pspf")]
    rows = [words.removeprefix("pspf ").split() for cell in cells for words in cell.split("`")[1::2]]
    groups = {path[:1] for path in COMMANDS if len(path) > 1}
    for path in COMMANDS:
        if path and path not in groups:
            assert any(row[0] == path[0] and set(path) <= set(row) for row in rows), path


def test_an_option_of_the_commands_that_stands_before_them_is_explained(folder: Folder) -> None:
    for line in ("--backend memory:// topics list", "--json topics list", "-v emit orders {}", "topics --json list"):
        assert "stands behind them" in folder.pspf(*line.split()).err, line
    for line in ("--bckend memory:// topics list", "topics --nothing list", "emit --follow"):
        assert "stands behind them" not in folder.pspf(*line.split()).err, line


def test_help_loads_nothing_that_is_heavy(folder: Folder) -> None:
    script = (
        "import contextlib, sys\n"
        "from pspf.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "heavy = {'apsw', 'redis', 'asyncio', 'rich', 'uvloop', 'orjson', 'pspf.stream'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=folder.path, env=folder.environment, stdout=subprocess.DEVNULL, check=True
    )


def test_a_check_on_a_server_loads_nothing_that_only_a_run_or_a_file_needs(folder: Folder) -> None:
    script = (
        "import sys\n"
        "from pspf.cli.main import main\n"
        "try:\n"
        "    main(['worker', 'app:stream', '--check', '--backend', 'valkey://127.0.0.1:1/0'])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0, ended.code\n"
        "heavy = {'apsw', 'rich', 'uvloop', 'starlette', 'uvicorn', 'pspf.engine.processor'}\n"
        "heavy |= {'pspf.runtime.supervision.supervisor'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=folder.path, env=folder.environment, stderr=subprocess.DEVNULL, check=True
    )


@pytest.mark.parametrize("number", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_a_stream_that_was_closed_is_an_empty_one(folder: Folder, number: int) -> None:
    command = [sys.executable, "-c", CLOSED, str(number), "topics", "create", "orders"]
    ended = subprocess.run(command, cwd=folder.path, env=folder.environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert folder.ok("topics", "list", "--json").json["topics"][0]["topic"] == "orders"


def test_every_flag_has_a_variable(folder: Folder) -> None:
    folder.emit(3)
    assert folder.run("tail", "orders", "--format", "%i", PSPF_TAIL_COUNT="2").out == "1\n2\n"
    assert "[env var: PSPF_GROUPS_INSPECT_LAG_OVER" in " ".join(folder.ok("groups", "inspect", "--help").out.split())


def test_versions_and_settings_are_told_without_secrets(folder: Folder) -> None:
    assert set(folder.ok("version", "--json").json) >= {"pspf", "python", "apsw", "pydantic"}
    shown = folder.run("config", "show", "--json", VALKEY_PASSWORD="hunter2", PSPF_LEASE_MS="5000").json
    assert shown["PSPF_LEASE_MS"] == 5000
    assert "hunter2" not in str(shown)


def test_a_wrong_command_or_flag_ends_with_code_2(folder: Folder) -> None:
    assert folder.look("emti").code == 2
    assert folder.look("emit", "--nope").code == 2
    assert folder.look("groups", "inspekt").code == 2
    assert folder.pspf("config", "show", PSPF_LEASE_MS="soon").code == 2

"""A command is a function with a docstring: its common options, its loop and its exit code come with the decorator."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from pspf.cli.command import Invocation, command, make_app, summarize
from pspf.cli.exit_codes import ExitCode, Interrupted
from tests.unit.test_house import imports, sources

app = make_app("Things.", "pspf things count", name="things")


@command(app, "pspf things count", "pspf things count orders --json")
async def count(call: Invocation, topic: Annotated[str, typer.Argument(help="The topic.")] = "orders") -> ExitCode:
    """Count the records of a topic."""
    async with call.open_broker(names=False) as broker:
        found = {info.topic: info.records for info in await broker.list_topics()}
    typer.echo(f"{topic}: {found.get(topic)}, as json: {call.as_json}")
    return ExitCode.OK if topic in found else ExitCode.NOT_FOUND


@dataclass(frozen=True, slots=True)
class Size:
    """Options of a size."""

    width: Annotated[int, typer.Option("--width", "-w", help="How wide.")]
    names: Annotated[list[str] | None, typer.Option("--name", help="A name; repeat it.")] = None


@command(app, "pspf things draw -w 3", "pspf things draw -w 3 --name a", name="draw", has_backend=False, has_json=False)
def draw_it(
    call: Invocation, size: Size, is_bold: Annotated[bool, typer.Option("--bold", help="Bold.")] = False
) -> None:
    """Draw something."""
    typer.echo(f"{call} {size} {is_bold}")


@command(app, "pspf things wait", "pspf things wait --json", has_backend=False)
async def wait(call: Invocation) -> None:
    """Wait until Ctrl-C."""
    asyncio.get_running_loop().call_soon(raise_interrupt)
    await asyncio.sleep(60)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_a_command_has_its_own_options_and_the_common_ones() -> None:
    code, page = run("count", "--help")
    assert code == 0
    assert page.index("--backend") < page.index("--json") < page.index("--verbose")
    assert "Count the records of a topic." in page
    assert page.rstrip().endswith("Examples:\n  pspf things count\n  pspf things count orders --json")


def test_a_coroutine_is_run_with_the_broker_of_its_option_and_returns_the_exit_code(tmp_path: Path) -> None:
    backend = f"sqlite:///{tmp_path}/b.db"
    assert run("count", "--backend", backend)[0] == 1, "there is no such file"
    asyncio.run(make_topic(backend))
    assert run("count", "--backend", backend, "--json") == (0, "orders: 0, as json: True\n")
    assert run("count", "other", "--backend", backend) == (6, "other: None, as json: False\n")


async def make_topic(backend: str) -> None:
    async with Invocation(backend).open_broker(makes=True, names=False) as broker:
        await broker.create_topic("orders")


def test_a_dataclass_stands_for_its_fields() -> None:
    shown = "Invocation(backend=None, as_json=False) Size(width=3, names=['a', 'b']) True\n"
    assert run("draw", "-w", "3", "--name", "a", "--name", "b", "--bold") == (0, shown)
    assert run("draw", "-w", "3")[1].endswith("Size(width=3, names=None) False\n")


def test_a_field_without_a_default_is_needed() -> None:
    assert run("draw")[0] == 2


@pytest.mark.parametrize("option", ["--backend=memory://", "--json"])
def test_a_command_without_an_option_refuses_it(option: str) -> None:
    assert run("draw", "-w", "3", option)[0] == 2


def test_no_command_declares_a_common_option_by_hand() -> None:
    by_hand = {
        str(path)
        for path, tree in sources("pspf/cli/commands")
        if {f"pspf.cli.options.{name}" for name in ("Backend", "AsJson", "Verbose")} & set(imports(tree))
    }
    assert by_hand == set()


def test_ctrl_c_ends_a_coroutine_as_an_ordinary_exception() -> None:
    assert isinstance(CliRunner().invoke(app, ["wait"]).exception, Interrupted)


@pytest.mark.parametrize(
    ("page", "summary"),
    [
        ("Count records.", "Count records."),
        ("Count records. Prints a number.", "Count records."),
        ("Count records: all that are\nnot done, or some.", "Count records."),
        ("Count all records, done ones as well, and others", "Count all records."),
        ("Count records that are not done yet", "Count records that are..."),
    ],
)
def test_a_summary_ends_where_a_clause_does(page: str, summary: str) -> None:
    assert summarize(page + "\n\nMore of it.", 27) == summary

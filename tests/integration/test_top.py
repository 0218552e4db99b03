"""`pspf top`: what it says of workers and groups, in a table, as JSON and on a screen."""

import asyncio
import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pspf.cli.services.live_screen import Screen, fit
from pspf.cli.services.overview import HandlerView, Overview, read_overview
from pspf.cli.services.overview_table import draw_line
from pspf.connectors.sqlite.broker import SQLiteBroker
from tests.process.commands import Folder
from tests.support.workers import GROUP, HANDLER, TOPIC, letter, new, own, settle, share, take


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def process(place: str, state: str = "running", **fields: Any) -> dict[str, Any]:
    """Return a process of a worker's status, with one subscription where `fields` has a handler."""
    topic, group = place.partition("#")[0].split("/")
    counts = {"partitions": [0], "processed": 7, "failed": 2, "dead": 1, "rate": 1.5, "last_commit_ms": 1_000}
    subscriptions = [{"topic": topic, "group": group, **counts, **fields}] if "handler" in fields else []
    return {"place": place, "worker": f"host-1-{place}", "pid": 1, "state": state, "subscriptions": subscriptions}


async def look(folder: Folder, *processes: dict[str, Any]) -> Overview:
    """Return what `top` sees beside a worker with these processes."""
    async with SQLiteBroker(folder.path / ".pspf" / "broker.db") as broker:
        if processes:
            status = {"worker": "host-1", "host": "host", "processes": processes}
            await broker.roster.publish("host-1", json.dumps(status).encode(), ttl_ms=60_000)
        return await read_overview(broker)


async def fill(folder: Folder) -> None:
    """Store three orders: a dead one, and two that an ordered handler has not done; one group shares them."""
    async with SQLiteBroker(folder.path / ".pspf" / "broker.db") as broker:
        await broker.append(TOPIC, [new("{}", "k") for _ in range(3)])
        ordered, shared = await own(broker), await share(broker, group="audit")
        first = (await take(ordered.consumer, 1))[0]
        await ordered.consumer.commit(settle(position=first.offset + 1, dead=[letter(first)]))
        await ordered.session.close()
        await shared.session.close()


def view(overview: Overview, group: str) -> HandlerView:
    (found,) = [each for each in overview.handlers if each.group == group]
    return found


async def test_a_handler_is_shown_with_what_its_processes_and_its_group_say(folder: Folder) -> None:
    await fill(folder)
    place = f"{TOPIC}/{GROUP}"
    found = view(
        await look(
            folder, process(f"{place}#0", handler=HANDLER), process(f"{place}#1", handler=HANDLER, partitions=[])
        ),
        GROUP,
    )
    assert (found.handler, found.state, found.processes) == (HANDLER, "running", 2)
    assert (found.partitions, found.of_partitions) == (1, 1)
    assert (found.rate, found.processed, found.failed, found.dead) == (3.0, 14, 4, 2)
    assert (found.lag, found.ordering) == (2, "key")


async def test_a_group_that_nobody_works_for_is_shown_with_its_lag(folder: Folder) -> None:
    await fill(folder)
    found = view(await look(folder), "audit")
    assert (found.handler, found.state, found.lag) == (None, "no worker", 3)


async def test_a_shared_group_counts_once_for_several_handlers(folder: Folder) -> None:
    await fill(folder)
    processes = [process(f"{TOPIC}/audit#{n}", handler=f"app.h{n}") for n in range(2)]
    overview = await look(folder, *processes)
    assert [each.lag for each in overview.handlers if each.group == "audit"] == [3, 3]
    assert overview.lag == 5


async def test_a_paused_process_is_told_for_its_handlers(folder: Folder) -> None:
    await fill(folder)
    found = view(await look(folder, process(f"{TOPIC}/{GROUP}#0", "paused")), GROUP)
    assert (found.handler, found.state, found.processes) == (HANDLER, "paused", 1)


async def test_the_worst_state_of_several_processes_is_told(folder: Folder) -> None:
    await fill(folder)
    place = f"{TOPIC}/{GROUP}"
    overview = await look(folder, process(f"{place}#0", handler=HANDLER), process(f"{place}#1", "crashing"))
    assert view(overview, GROUP).state == "crashing"


async def test_an_ordered_handler_without_a_partition_stands_by(folder: Folder) -> None:
    await fill(folder)
    overview = await look(folder, process(f"{TOPIC}/{GROUP}#0", handler=HANDLER, partitions=[]))
    assert view(overview, GROUP).state == "standing by"


def test_without_a_terminal_it_is_one_picture(folder: Folder) -> None:
    asyncio.run(fill(folder))
    shown = folder.ok("top")
    assert HANDLER in shown.out
    assert "1 dead letter" in shown.err
    only = folder.ok("top", "--topic", "nothing")
    assert (only.out, only.err.splitlines()[-1]) == ("", "nothing on nothing")


def test_its_json_has_stable_names(folder: Folder) -> None:
    asyncio.run(fill(folder))
    found = folder.ok("top", "--json").json
    assert set(found) == {
        "broker",
        "at_ms",
        "workers",
        "processes",
        "rate",
        "lag",
        "handlers",
        "dead_letters",
        "remarks",
    }
    assert found["dead_letters"] == {TOPIC: 1}
    assert set(found["handlers"][0]) == {
        *("handler", "topic", "group", "ordering", "state", "processes", "partitions", "of_partitions", "rate", "lag"),
        *("pending", "watermark_delay_ms", "processed", "failed", "dead", "last_commit_ms"),
    }


def draw(screen: Screen, width: int) -> str:
    text = io.StringIO()
    Console(width=width, file=text).print(screen.draw(width))
    return text.getvalue()


async def test_the_screen_keeps_what_it_knew_while_the_broker_is_away(folder: Folder) -> None:
    await fill(folder)
    screen = Screen()
    screen.show(await look(folder))
    screen.miss("no route")
    assert HANDLER in draw(screen, 160)
    assert "the broker is away, asking again: no route" in draw(screen, 160)
    screen.show(await look(folder))
    assert "away" not in draw(screen, 160)


def test_a_narrow_screen_leaves_out_what_counts_least() -> None:
    widths = {"handler": 20, "rate/s": 8, "lag": 6, "group": 10, "committed": 10}
    assert fit(widths, 200) == list(widths)
    assert fit(widths, 60) == ["handler", "rate/s", "lag", "group"]
    assert fit(widths, 20) == ["handler", "rate/s", "lag"]


def test_rates_are_drawn_as_bars() -> None:
    assert draw_line([0, 5, 10], 4) == " ▁▄█"
    assert draw_line([0, 0], 2) == "▁▁"


def test_on_a_terminal_it_goes_on_until_q_and_leaves_the_terminal_as_it_was(folder: Folder) -> None:
    asyncio.run(fill(folder))
    terminal, of_process = pty.openpty()
    termios.tcsetwinsize(of_process, (40, 200))
    before = termios.tcgetattr(of_process)
    process = subprocess.Popen(
        [sys.executable, "-m", "pspf", "top", "--every", "200ms"],
        cwd=folder.path,
        env={**folder.environment, "TERM": "xterm"},
        stdin=of_process,
        stdout=of_process,
        stderr=subprocess.PIPE,
    )
    with process:
        shown = b""
        while shown.count(HANDLER.encode()) < 3:  # it draws again and again
            shown += os.read(terminal, 65_536)
        os.write(terminal, b"q")
        while process.poll() is None:
            shown += os.read(terminal, 65_536) if select.select([terminal], [], [], 0.1)[0] else b""
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (0, b"")
    assert termios.tcgetattr(of_process) == before
    os.close(terminal)
    os.close(of_process)

"""`ctx.state`, measured: `python -m benchmarks.state [--quick] [--only embedded,valkey] [--keys 200,200000]`.

An ordered handler gets one value of its record's key and puts it back, with events of about 150 bytes and keys
that come at random, from a state that is empty at first. Each run is a process and a group of its own on the same
records; the embedded broker is a file with `synchronous=FULL`, the server keeps nothing on disk.
Figures are medians of the runs.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.console import Console

from benchmarks.events import TOPIC, Tick, ready_dicts
from benchmarks.handlers import get_ready, run_until
from benchmarks.report import ROOT, Row, finish, make_table, rate_row, start
from benchmarks.server import run_server
from pspf import Context, Stream
from pspf.connectors.sqlite import SQLiteBackend
from pspf.connectors.valkey import ValkeyConnector, ValkeyStreamBackend

MODULE = "benchmarks.state"
EMIT_AT_ONCE = 5_000
BROKERS = ("embedded", "valkey")


def open_stream(place: str, topic: str, group: str) -> Stream:
    """Return a Stream on the broker file or the server's port at `place`."""
    if place.isdigit():
        return Stream(ValkeyStreamBackend(ValkeyConnector(host="127.0.0.1", port=int(place)), topic, group))
    return Stream(SQLiteBackend(place, stream_key=topic, group_name=group))


async def fill(place: str, topic: str, total: int, keys: int) -> dict[str, Any]:
    """Emit events of so many keys."""
    dice = random.Random(7)
    async with open_stream(place, topic, "fill") as stream:
        for _ in range(0, total, EMIT_AT_ONCE):
            events = ready_dicts(EMIT_AT_ONCE, with_ids=False)
            await stream.emit_many([event | {"key": f"key-{dice.randrange(keys)}"} for event in events], topic)
    return {}


async def count(place: str, topic: str, total: int, group: str) -> dict[str, Any]:
    """Count the events of each key; return the seconds from connecting to the last commit, and of CPU."""
    stream, complete, handled, times = open_stream(place, topic, group), asyncio.Event(), 0, list[float]()

    @stream.subscribe(topic, ordering="key", name="count")
    async def handle(event: Tick, ctx: Context) -> None:
        nonlocal handled
        await ctx.state.put("n", await ctx.state.get("n", 0) + 1)
        handled += 1
        if handled % (total // 4) == 0:
            times.append(time.perf_counter())
        if handled == total:
            complete.set()

    started, used = time.perf_counter(), time.process_time()
    await run_until(stream, complete)
    ended = time.perf_counter()
    return {"seconds": ended - started, "last_quarter": ended - times[-2], "cpu": time.process_time() - used}


def measure(place: str, options: argparse.Namespace) -> list[Row]:
    """Measure one broker with each number of keys."""
    rows: list[Row] = []
    for keys in options.keys:
        topic = f"{TOPIC}-{keys}"
        finish(start(MODULE, "fill", {"place": place, "topic": topic, "total": options.events, "keys": keys}))
        all_of_it, late, used = [], [], []
        for run in range(options.runs):
            arguments = {"place": place, "topic": topic, "total": options.events, "group": f"run-{run}"}
            found = finish(start(MODULE, "count", arguments))
            all_of_it.append(options.events / found["seconds"])
            late.append(options.events / 4 / found["last_quarter"])
            used.append(found["cpu"] * 1e6 / options.events)
        rows.append(rate_row(f"get and put, {keys:,} keys", all_of_it))
        rows.append(rate_row("  the last quarter", late))
        rows.append(Row("  CPU of an event", f"{median(used):.1f} us", f"{min(used):.1f} to {max(used):.1f}", ""))
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends the process with 2 where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BROKERS), help="brokers to measure, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a quarter of it, for a first look")
    parser.add_argument("--runs", type=int, help="rounds (default 3, quick 1)")
    parser.add_argument("--events", type=int, help="events a run (default 400,000, quick 100,000)")
    parser.add_argument("--keys", default="200,200000", help="numbers of keys, separated by commas")
    parser.add_argument("--dir", type=Path, default=ROOT / ".pspf", help="where the file goes: the disk that counts")
    options = parser.parse_args(arguments)
    options.brokers = [name.strip() for name in options.only.split(",")]
    if unknown := set(options.brokers) - set(BROKERS):
        parser.error(f"no broker {', '.join(sorted(unknown))}; there are {', '.join(BROKERS)}")
    options.keys = [int(number) for number in options.keys.split(",")]
    options.events = options.events or (100_000 if options.quick else 400_000)
    options.runs = options.runs or (1 if options.quick else 3)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = parse(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    console = Console()
    console.print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {options.events:,} events a run")
    table = make_table()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
        for name in options.brokers:
            console.print(f"measuring {name} ...", style="dim")
            if name == "embedded":
                rows = measure(f"{folder}/state.db", options)
            else:
                with run_server(Path(folder)) as port:
                    rows = measure(str(port), options)
            for row in rows:
                table.add_row(f"{name}: {row.what}" if row.what[0] != " " else row.what, row.measured, row.spread)
            table.add_section()
    console.print(table)


def act(actor: str, arguments: dict[str, Any]) -> None:
    """Run an actor, and print what it returns as a line of JSON."""
    get_ready()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = fill(**arguments) if actor == "fill" else count(**arguments)
        print(json.dumps(runner.run(work)))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("fill", "count"):
        act(sys.argv[1], json.loads(sys.argv[2]))
    else:
        main()

"""The embedded broker, measured: `python -m benchmarks.embedded [--quick] [--only consume,emit,latency,idle]`.

consume   PSPF and a hand-written loop over the same file, in turn: `batch_size=500`, events of about
          150 bytes, pydantic validation, an async handler that counts, `synchronous=FULL`
emit      `emit_many` of ready dicts in batches of 500, without ids and with the caller's
latency   from the call of `emit` in one process to the handler's first line in another
idle      the CPU of a worker that has nothing to do

Every run is a process of its own on a broker file of its own; figures are medians of the runs.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import apsw
from rich import box
from rich.console import Console
from rich.table import Column, Table

from benchmarks.measure import fsync_ms, percentile

ROOT = Path(__file__).resolve().parents[1]
PER_SECOND = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    folder: Path
    events: int
    runs: int
    samples: int
    idle_s: float
    loop: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    spread: str
    target: str


def start(actor: str, arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """Start an actor."""
    command = [sys.executable, "-m", "benchmarks.actors", actor, json.dumps(arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for an actor and return what it printed; end the benchmark where it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"an actor ended with {process.returncode}; its error is above")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def act(plan: Plan, actor: str, path: Path, **arguments: Any) -> dict[str, Any]:
    """Run an actor to its end."""
    return finish(start(actor, {"path": str(path), "loop": plan.loop, **arguments}))


def rate_row(what: str, rates: Sequence[float], target: str) -> Row:
    """Return the line of a throughput: median, lowest and highest."""
    return Row(
        what, f"{median(rates):,.0f} events/s", f"{min(rates) / 1000:,.0f}k to {max(rates) / 1000:,.0f}k", target
    )


def consume(plan: Plan) -> list[Row]:
    """PSPF beside the hand-written loop; who goes first changes from round to round."""
    path = plan.folder / "consume.db"
    size_bytes = act(plan, "fill", path, total=plan.events)["bytes"]
    rates: dict[str, list[float]] = {"consume": [], "consume_by_hand": []}
    for run in range(plan.runs):
        for actor in sorted(rates, reverse=run % 2 == 1):
            seconds = act(plan, actor, path, total=plan.events, group=f"{actor}-{run}")["seconds"]
            rates[actor].append(plan.events / seconds)
    pairs = [ours / by_hand for ours, by_hand in zip(rates["consume"], rates["consume_by_hand"], strict=True)]
    ratio = median(rates["consume"]) / median(rates["consume_by_hand"])
    return [
        rate_row(f"consume, {size_bytes:.0f}-byte events", rates["consume"], ">= 150,000"),
        rate_row("  a loop by hand, same file", rates["consume_by_hand"], ""),
        Row("  ratio", f"{ratio:.2f}", f"{min(pairs):.2f} to {max(pairs):.2f}", ">= 0.50"),
    ]


def emit(plan: Plan) -> list[Row]:
    """Emit without ids and with the caller's, each beside a loop by hand, in turn, each run into a fresh file."""
    rows: list[Row] = []
    for with_ids, what, target in ((False, "no ids", ">= 150,000"), (True, "own ids", ">= 80,000")):
        rates: dict[str, list[float]] = {"emit": [], "emit_by_hand": []}
        for run in range(plan.runs):
            for actor in sorted(rates, reverse=run % 2 == 1):
                path = plan.folder / f"{actor}-{run}-{with_ids}.db"
                seconds = act(plan, actor, path, total=plan.events, with_ids=with_ids)["seconds"]
                rates[actor].append(plan.events / seconds)
                remove(path)
        ratio = median(rates["emit"]) / median(rates["emit_by_hand"])
        pairs = [ours / by_hand for ours, by_hand in zip(rates["emit"], rates["emit_by_hand"], strict=True)]
        rows.append(rate_row(f"emit_many by 500, {what}", rates["emit"], target))
        rows.append(rate_row("  inserts by hand", rates["emit_by_hand"], ""))
        rows.append(Row("  ratio", f"{ratio:.2f}", f"{min(pairs):.2f} to {max(pairs):.2f}", ""))
    return rows


def latency(plan: Plan) -> list[Row]:
    """One process emits, another handles; the disk's own time is taken before and after."""
    path = plan.folder / "latency.db"
    before_ms = fsync_ms(plan.folder)
    receiver = start("receive", {"path": str(path), "loop": plan.loop, "total": plan.samples})
    try:
        act(plan, "emit_slowly", path, total=0, per_second=PER_SECOND)
        if receiver.stdout is None or receiver.stdout.readline() != "ready\n":
            raise SystemExit("the receiver ended before its first event")
        act(plan, "emit_slowly", path, total=plan.samples, per_second=PER_SECOND)
        latencies_ms = finish(receiver)["latencies_ms"]
    finally:
        receiver.kill()
    after_ms = fsync_ms(plan.folder)
    disk_ms = median([before_ms, after_ms])
    p50, p99 = (percentile(latencies_ms, percent) for percent in (50, 99))
    limit_ms = disk_ms + 1.5
    return [
        Row("disk: 4 KiB fdatasync", f"{disk_ms:.2f} ms", f"{before_ms:.2f} and {after_ms:.2f}", ""),
        Row("emit to handler, p50", f"{p50:.2f} ms", f"of {len(latencies_ms):,}", f"<= {limit_ms:.2f}"),
        Row("emit to handler, p99", f"{p99:.2f} ms", f"max {max(latencies_ms):.2f}", f"<= {3 * limit_ms:.2f}"),
    ]


def idle(plan: Plan) -> list[Row]:
    """The CPU of a worker that waits."""
    share = act(plan, "idle", plan.folder / "idle.db", seconds=plan.idle_s)["share"]
    return [Row(f"idle worker, {plan.idle_s:.0f} s", f"{share:.2%} of a core", "", "< 1 %")]


SECTIONS: dict[str, Callable[[Plan], list[Row]]] = {"consume": consume, "emit": emit, "latency": latency, "idle": idle}


def remove(path: Path) -> None:
    """Remove a broker file and its companions, once no process uses them."""
    for companion in path.parent.glob(f"{path.name}*"):
        if companion.is_dir():
            shutil.rmtree(companion)
        else:
            companion.unlink()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends the process with 2 where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, for a first look")
    parser.add_argument("--runs", type=int, help="rounds of consume and emit (default 5, quick 3)")
    parser.add_argument("--events", type=int, help="events a run (default 300,000, quick 50,000)")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="event loop of both sides")
    parser.add_argument(
        "--dir", type=Path, default=ROOT / ".pspf", help="where the files go: the disk that is measured"
    )
    options = parser.parse_args(arguments)
    options.sections = [name.strip() for name in options.only.split(",")]
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = parse(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    console = Console()
    console.print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {apsw.sqlitelibversion()}, "
        f"synchronous=FULL, {options.loop}"
    )
    table = Table(
        Column("what", no_wrap=True),
        "measured",
        "spread",
        "aim",
        box=box.SIMPLE_HEAD,
    )
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
        plan = Plan(
            folder=Path(folder),
            events=options.events or (50_000 if options.quick else 300_000),
            runs=options.runs or (3 if options.quick else 5),
            samples=100 if options.quick else 1_000,
            idle_s=5 if options.quick else 30,
            loop=options.loop,
        )
        for name in options.sections:
            console.print(f"measuring {name} ...", style="dim")
            for row in SECTIONS[name](plan):
                table.add_row(row.what, row.measured, row.spread, row.target)
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()

"""The embedded broker, measured: `python -m benchmarks.embedded [--quick] [--only consume,emit,latency,idle]`.

consume   PSPF and a hand-written loop over the same file, in turn: `batch_size=500`, events of about
          150 bytes, pydantic validation, an async handler that counts, `synchronous=FULL`
emit      `emit_many` of ready dicts in batches of 500, without ids and with the caller's
latency   from the call of `emit` in one process to the handler's first line in another
idle      the CPU of a worker that has nothing to do

Every run is a process of its own on a broker file of its own; figures are medians of the runs.
"""

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from rich.console import Console

from benchmarks.measure import fsync_ms, percentile
from benchmarks.report import ROOT, Row, await_ready, finish, make_table, rate_row, ratio_row, start

ACTORS = "benchmarks.actors"
PER_SECOND = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    folder: Path
    events: int
    runs: int
    samples: int
    probes: int
    idle_s: float
    loop: str


def act(plan: Plan, actor: str, path: Path, **arguments: Any) -> dict[str, Any]:
    """Run an actor to its end."""
    return finish(start(ACTORS, actor, {"path": str(path), "loop": plan.loop, **arguments}))


def consume(plan: Plan) -> list[Row]:
    """PSPF beside the hand-written loop; who goes first changes from round to round."""
    path = plan.folder / "consume.db"
    size_bytes = act(plan, "fill", path, total=plan.events)["bytes"]
    rates: dict[str, list[float]] = {"consume": [], "consume_by_hand": []}
    for run in range(plan.runs):
        for actor in sorted(rates, reverse=run % 2 == 1):
            seconds = act(plan, actor, path, total=plan.events, group=f"{actor}-{run}")["seconds"]
            rates[actor].append(plan.events / seconds)
    return [
        rate_row(f"consume, {size_bytes:.0f}-byte events", rates["consume"], ">= 150,000"),
        rate_row("  a loop by hand, same file", rates["consume_by_hand"]),
        ratio_row("  ratio", rates["consume"], rates["consume_by_hand"], ">= 0.50"),
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
        rows.append(rate_row(f"emit_many by 500, {what}", rates["emit"], target))
        rows.append(rate_row("  inserts by hand", rates["emit_by_hand"]))
        rows.append(ratio_row("  ratio", rates["emit"], rates["emit_by_hand"]))
    return rows


def latency(plan: Plan) -> list[Row]:
    """One process emits, another handles; the disk's own time is taken before and after."""
    path = plan.folder / "latency.db"
    disk = fsync_ms(plan.folder, plan.probes, PER_SECOND)
    receiver = start(ACTORS, "receive", {"path": str(path), "loop": plan.loop, "total": plan.samples})
    try:
        act(plan, "emit_slowly", path, total=0, per_second=PER_SECOND)
        await_ready(receiver)
        act(plan, "emit_slowly", path, total=plan.samples, per_second=PER_SECOND)
        latencies_ms = finish(receiver)["latencies_ms"]
    finally:
        receiver.kill()
    disk += fsync_ms(plan.folder, plan.probes, PER_SECOND)
    disk_p50, disk_p99 = (percentile(disk, percent) for percent in (50, 99))
    p50, p99 = (percentile(latencies_ms, percent) for percent in (50, 99))
    limit_ms = disk_p50 + 1.5
    return [
        Row("disk: 4 KiB fdatasync, same pace", f"{disk_p50:.2f} ms", f"p99 {disk_p99:.2f}", ""),
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
    table = make_table()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
        plan = Plan(
            folder=Path(folder),
            events=options.events or (50_000 if options.quick else 300_000),
            runs=options.runs or (3 if options.quick else 5),
            samples=100 if options.quick else 1_000,
            probes=50 if options.quick else 200,
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

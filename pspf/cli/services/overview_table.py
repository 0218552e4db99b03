"""Rows of an overview, for the table and for the live view."""

from collections.abc import Sequence
from typing import Final

from pspf.cli.console import Cell, count_of, format_span
from pspf.cli.services.overview import HandlerView, Overview

HEADERS: Final = (
    "handler",
    "topic",
    "group",
    "state",
    "processes",
    "partitions",
    "rate/s",
    "lag",
    "pending",
    "watermark",
    "failed",
    "dead",
    "committed",
)

_BARS: Final = "▁▂▃▄▅▆▇█"


def headline(overview: Overview) -> str:
    """Return the overview in a line."""
    letters = sum(overview.dead_letters.values())
    parts = [
        overview.broker,
        count_of(overview.workers, "worker"),
        f"{overview.processes:,} process{'' if overview.processes == 1 else 'es'}",
        f"{overview.rate:,.1f}/s",
        f"lag {'?' if overview.lag is None else format(overview.lag, ',')}",
        count_of(letters, "dead letter"),
    ]
    return " · ".join(parts)


def as_row(view: HandlerView, at_ms: int) -> tuple[Cell, ...]:
    """Return the cells of a handler, under `HEADERS`."""
    committed = None if view.last_commit_ms is None else f"{format_span(max(0, at_ms - view.last_commit_ms))} ago"
    return (
        view.handler or "(all)",
        view.topic,
        view.group,
        view.state,
        view.processes,
        f"{view.partitions}/{view.of_partitions}",
        view.rate,
        view.lag,
        view.pending,
        None if view.watermark_delay_ms is None else format_span(view.watermark_delay_ms),
        view.failed,
        view.dead,
        committed,
    )


def draw_line(values: Sequence[float], width: int) -> str:
    """Return the last `width` values as bars, the highest full; blank on the left while there are fewer."""
    shown = list(values)[-width:]
    highest = max(shown, default=0)
    bars = (_BARS[min(7, int(value / highest * 7.999))] if highest > 0 else _BARS[0] for value in shown)
    return "".join(bars).rjust(width)

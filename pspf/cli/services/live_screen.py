"""Live view of `pspf top`: a screen that is redrawn at intervals until q."""

import asyncio
import os
import sys
import termios
import tty
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pspf.cli.console import shorten, visible
from pspf.cli.services.overview import NOBODY, HandlerView, Overview, read_overview
from pspf.cli.services.overview_table import HEADERS, as_row, draw_line, headline
from pspf.connectors.contract.broker import Broker
from pspf.errors import BackendUnavailable

_BARS: Final = 16
_HISTORY: Final = "last rates"
_SPARED: Final = (_HISTORY, "committed", "processes", "group", "partitions", "pending", "watermark", "dead")
"""What is left out where there is no room, in this order."""
_GAP: Final = 3
_STATE_STYLES: Final = {
    "running": "green",
    "standing by": "dim",
    "paused": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "crashing": "bold red",
    "stalled": "bold red",
    NOBODY: "dim",
}

_Key = tuple[str, str, str | None]


class Screen:
    """What is on the screen: the last overview, the rates before it, and why there is no newer one."""

    def __init__(self) -> None:
        self._rates: defaultdict[_Key, deque[float]] = defaultdict(lambda: deque(maxlen=_BARS))
        self._overview: Overview | None = None
        self._trouble: str | None = None

    def show(self, overview: Overview) -> None:
        """Take a new overview."""
        self._overview, self._trouble = overview, None
        for view in overview.handlers:
            self._rates[view.topic, view.group, view.handler].append(view.rate)

    def miss(self, why: str) -> None:
        """Say why there is no new one; the last one stays, dimmed."""
        self._trouble = why

    def draw(self, width: int) -> RenderableType:
        """Return what is seen in so many columns."""
        lines: list[RenderableType] = []
        if self._overview is not None:
            time = datetime.fromtimestamp(self._overview.at_ms / 1000, UTC).strftime("%H:%M:%SZ")
            lines.append(Text(visible(headline(self._overview)), style="bold"))
            lines.append(Text(f"{time}   q quits", style="dim"))
        if self._trouble is not None:
            lines.append(Text(visible(f"the broker is away, asking again: {self._trouble}"), style="bold red"))
        if self._overview is not None:
            lines.append(self._draw_table(self._overview, width))
            for topic, count in self._overview.dead_letters.items():
                lines.append(Text(visible(f"{count:,} dead in {topic}:  pspf dlq list {topic}"), style="red"))
            lines += [Text(visible(shorten(remark, 400)), style="yellow") for remark in self._overview.remarks]
        return Group(*lines)

    def _draw_table(self, overview: Overview, width: int) -> RenderableType:
        if not overview.handlers:
            return Text("\nno handler has run on this broker yet; start one:  pspf worker MODULE:OBJECT", style="dim")
        columns: dict[str, list[Text]] = {}
        for view in overview.handlers:
            for header, cell in zip(HEADERS, as_row(view, overview.at_ms), strict=True):
                columns.setdefault(header, []).append(_style(header, view, cell))
                if header == "rate/s":
                    bars = draw_line(self._rates[view.topic, view.group, view.handler], _BARS)
                    columns.setdefault(_HISTORY, []).append(Text(bars, style="cyan"))
        table = Table(box=SIMPLE_HEAD, pad_edge=False, style="dim" if self._trouble else "")
        shown = fit({header: max(len(header), *map(len, cells)) for header, cells in columns.items()}, width)
        for header in shown:
            is_text = header in ("handler", "topic", "group", "state")
            # Names give way before numbers do.
            least = None if is_text else max(len(header), *map(len, columns[header]))
            justify: JustifyMethod = "left" if is_text else "right"
            table.add_column(header, justify=justify, no_wrap=True, overflow="ellipsis", min_width=least)
        for row in zip(*(columns[header] for header in shown), strict=True):
            table.add_row(*row)
        return table


def fit(widths: Mapping[str, int], width: int) -> Sequence[str]:
    """Return the columns that have room in `width`; what counts least is left out first."""
    shown = list(widths)
    for spared in _SPARED:
        if sum(widths[header] + _GAP for header in shown) <= width:
            break
        shown = [header for header in shown if header != spared]
    return shown


def _style(header: str, view: HandlerView, cell: str | int | float | None) -> Text:
    """Return a cell with the colour of what it tells."""
    text = "-" if cell is None else f"{cell:,}" if isinstance(cell, int | float) else visible(cell)
    if header == "state":
        is_missed = view.state == NOBODY and view.lag != 0
        return Text(text, style="bold red" if is_missed else _STATE_STYLES.get(view.state, ""))
    if header in ("failed", "dead") and cell:
        return Text(text, style="red")
    return Text(text, style="dim" if cell in (0, None, "-") else "")


async def watch_overview(broker: Broker, topics: Sequence[str], every_ms: int) -> None:
    """Show the handlers of `topics` (all where none are named) every `every_ms`, until q is pressed."""
    console = Console()
    screen = Screen()
    leave = asyncio.Event()
    with (
        _keys(lambda key: leave.set() if key in "qQ" else None),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while not leave.is_set():
            try:
                screen.show((await read_overview(broker)).only(topics))
            except BackendUnavailable as error:
                screen.miss(str(error))
            live.update(screen.draw(console.width), refresh=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(every_ms / 1000):
                    await leave.wait()


@contextmanager
def _keys(on_key: Callable[[str], object]) -> Iterator[None]:
    """Call `on_key` with each key that is pressed, where keys come from a terminal; Ctrl-C stays what it is."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in os.read(descriptor, 64).decode(errors="ignore"):
            on_key(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

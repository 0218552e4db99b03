"""The app that the fault tests run: sums per key in order, alerts from a second group.

`FAULTS_KILL=HANDLER:N` makes a handler end its process at event N, every time; `FAULTS_BATCH_SIZE`
is the most records of a batch, `FAULTS_PADDING` the bytes that an output is made larger by.
"""

import os
import signal

from pspf import BaseEvent, Context, Stream

KILL_HANDLER, _, KILL_AT = os.environ.get("FAULTS_KILL", "").partition(":")
BATCH_SIZE = int(os.environ.get("FAULTS_BATCH_SIZE", "7"))
"""Small, so that a run passes every crash point many times."""
PADDING = "x" * int(os.environ.get("FAULTS_PADDING", "0"))
ALERT_EVERY = 7


class Number(BaseEvent):
    """One numbered event of a key."""

    n: int
    name: str = ""


class Total(BaseEvent):
    """What the sums of a key are after event `n`."""

    n: int
    count: int
    sum: int
    padding: str = ""


class Alert(BaseEvent):
    """That event `n` was seen."""

    n: int


stream = Stream(topic="numbers", group="sums")


def _end_process(handler: str, n: int) -> None:
    if handler == KILL_HANDLER and n == int(KILL_AT):
        os.kill(os.getpid(), signal.SIGKILL)


@stream.subscribe("numbers", BATCH_SIZE, ordering="key", name="totals")
async def totals(event: Number, ctx: Context) -> None:
    """Keep count and sum per key; emit each step."""
    _end_process("totals", event.n)
    count, total = await ctx.state.get("total", (0, 0))
    count, total = count + 1, total + event.n
    await ctx.state.put("total", (count, total))
    ctx.emit(Total(n=event.n, count=count, sum=total, padding=PADDING), topic="totals", key=event.key)


@stream.subscribe("numbers", BATCH_SIZE, group="watch", name="alerts")
async def alerts(event: Number, ctx: Context) -> None:
    """Emit an alert for every seventh event."""
    _end_process("alerts", event.n)
    if event.n % ALERT_EVERY == 0:
        ctx.emit(Alert(n=event.n), topic="alerts", key=event.key)

"""The app of the timers' fault tests: each event sets a timer by the clock and one in event time, which emit.

`FAULTS_BATCH_SIZE` is the most records of a batch. `FAULTS_KILL=NAME` makes a timer of that name end its process.
"""

import os
import signal
from typing import Final

from pspf import BaseEvent, Context, Stream, Timer

BATCH_SIZE: Final = int(os.environ.get("FAULTS_BATCH_SIZE", "7"))
KILL: Final = os.environ.get("FAULTS_KILL")


class Tick(BaseEvent):
    """An event that is told apart by its number."""

    n: int


stream = Stream(topic="ticks", group="timers")


@stream.subscribe("ticks", BATCH_SIZE, ordering="key", name="timed")
async def timed(event: Tick, ctx: Context) -> None:
    """Set two timers; the one in event time is that of the key, which moves with each event."""
    ctx.timer(f"clock-{event.n}", after_ms=event.n % 5 * 10, payload=event.n)
    ctx.timer("last", at_ms=event.n * 1_000 + 5_500, payload=event.n)


@stream.on_timer(timed)
async def fire(timer: Timer[int], ctx: Context) -> None:
    """Count, and tell which timer it was."""
    if timer.name == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    count = await ctx.state.get("count", 0) + 1
    await ctx.state.put("count", count)
    ctx.emit({"name": timer.name, "n": timer.payload, "count": count}, topic="fired", key=timer.key)

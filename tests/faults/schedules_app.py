"""The app of the schedules' fault test: each tick says outside that it has begun, and counts and emits inside."""

import asyncio
import os
from typing import Final

from pspf import Context, Stream, Tick

LOG: Final = os.environ.get("SCHEDULES_LOG", "/dev/null")
stream = Stream(topic="orders", group="timed")


@stream.every(int(os.environ.get("SCHEDULES_EVERY_MS", "200")), name="report", catch_up="all")
async def report(tick: Tick, ctx: Context) -> None:
    """Say which process has begun, take some time, count."""
    with open(LOG, "a", encoding="utf-8") as log:  # noqa: ASYNC230 (a line: it blocks nobody)
        log.write(f"{os.getpid()} {tick.at_ms}\n")
    await asyncio.sleep(0.01)
    count = await ctx.state.get("count", 0) + 1
    await ctx.state.put("count", count)
    ctx.emit({"at": tick.at_ms, "count": count}, topic="out")

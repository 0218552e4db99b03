"""The app of the fault tests of a handler of two topics. `FAULTS_POISON=N` makes event N end its process every time."""

import os
import signal

from pspf import BaseEvent, Context, Stream

POISON = int(os.environ.get("FAULTS_POISON", "-1"))


class Number(BaseEvent):
    """One numbered event of a key."""

    n: int


stream = Stream(topic="merged", group="inputs")


@stream.subscribe(topics=["left", "right"], batch_size=5, ordering="key", name="merge")
async def merge(event: Number, ctx: Context) -> None:
    """Keep which events of a key were seen, in order; emit each."""
    if event.n == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    await ctx.state.put("seen", [*await ctx.state.get("seen", []), event.n])
    ctx.emit({"n": event.n}, key=event.key)

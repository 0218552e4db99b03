"""The app of the fault tests of durable steps: three steps, each adds a line to the file `STEPS_FILE`.

`STEPS_TOPICS` are what it reads, `orders` by default.
`STEPS_KILL_AT=N` makes the handler end its process at event N, behind its first step, every time.
"""

import os
import random
import signal
import time

from pspf import BaseEvent, Context, Stream

FILE = os.environ.get("STEPS_FILE", os.devnull)
KILL_AT = int(os.environ.get("STEPS_KILL_AT", "-1"))
TOPICS = os.environ.get("STEPS_TOPICS", "orders").split()
PAUSE_S = float(os.environ.get("STEPS_PAUSE", "0.004"))

stream = Stream(topic="orders", group="steps")


class Order(BaseEvent):
    """A numbered event."""

    n: int


def act(n: int, step: str, key: str) -> str:
    """Add a line to the file, at once and whole; the process may be killed before and behind it."""
    time.sleep(random.uniform(0, PAUSE_S))
    place = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(place, f"{n} {step} {key}\n".encode())
    finally:
        os.close(place)
    time.sleep(random.uniform(0, PAUSE_S))
    return f"{step}-{n}"


@stream.subscribe(batch_size=5, ordering="key", name="fulfil", topics=TOPICS)
async def fulfil(event: Order, ctx: Context) -> None:
    done = [await ctx.step("charge", act, event.n, "charge", ctx.idempotency_key("charge"))]
    if event.n == KILL_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    for step in ("reserve", "mail"):
        done.append(await ctx.step(step, act, event.n, step, ctx.idempotency_key(step)))
    await ctx.state.put("n", await ctx.state.get("n", 0) + 1)
    ctx.emit({"n": event.n, "done": done}, topic="fulfilled")

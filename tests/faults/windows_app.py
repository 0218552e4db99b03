"""The app of the windows' fault tests: the numbers of each window, as it closes, by a handler and by what is ready.

`FAULTS_BATCH_SIZE` is the most records of a batch.
"""

import os

from pspf import BaseEvent, Collect, SessionWindow, SlidingWindow, Stream, TumblingWindow

BATCH_SIZE = int(os.environ.get("FAULTS_BATCH_SIZE", "9"))
DELAY_MS = 2_000
TUMBLING = TumblingWindow(5_000)
SLIDING = SlidingWindow(6_000, 2_000)
SESSIONS = SessionWindow(3_000)


class Tick(BaseEvent):
    """An event that is told apart by its number."""

    n: int


stream = Stream(topic="ticks", group="windows")


@stream.window("ticks", TUMBLING, BATCH_SIZE, DELAY_MS, emit="final", to="tumbled", name="tumbled", schema=Tick)
async def tumbled(event: Tick, state: list[int] | None) -> list[int]:
    """Keep the numbers of a window."""
    return [*(state or ()), event.n]


@stream.window("ticks", SESSIONS, BATCH_SIZE, DELAY_MS, emit="final", to="sessions", name="sessions", schema=Tick)
async def sessions(event: Tick, state: list[int] | None) -> list[int]:
    """Keep the numbers of a session."""
    return [*(state or ()), event.n]


stream.window("ticks", SLIDING, BATCH_SIZE, DELAY_MS, emit="final", to="slid", name="slid", schema=Tick)(Collect("n"))

alone = Stream(topic="ticks", group="windows")
"""One of them alone: how many commits it makes is known."""
alone.window("ticks", TUMBLING, BATCH_SIZE, DELAY_MS, emit="final", to="tumbled", name="tumbled", schema=Tick)(tumbled)

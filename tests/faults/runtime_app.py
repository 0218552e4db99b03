"""The app of the runtime's fault tests: it counts per key, in order, and does on the way what a job says.

`FAULTS_BATCH_SIZE` is the most records of a batch.
"""

import asyncio
import os
import time
from pathlib import Path

from pspf import BaseEvent, Context, Stream

BATCH_SIZE = int(os.environ.get("FAULTS_BATCH_SIZE", "10"))


class Job(BaseEvent):
    """A job: `do` is `count`, `orphan`, `take` `taken_bytes`, or `sleep`, `block`, `thread`, `swallow` `seconds`."""

    n: int
    do: str = "count"
    seconds: float = 0.0
    taken_bytes: int = 0
    go: str = ""
    """A file that is waited for afterwards."""
    mark: str = ""
    """A file that is made before; where it is there already, the job only counts."""


class Step(BaseEvent):
    """That job `n` was the `count`-th of its key."""

    n: int
    count: int


stream = Stream(topic="jobs", group="runtime")


@stream.subscribe("jobs", BATCH_SIZE, ordering="key", name="steps")
async def steps(job: Job, ctx: Context) -> None:
    """Do the job, count it, emit the step."""
    print("start", job.n, os.getpid())
    if job.do != "count" and _is_first(job.mark):
        await _do(job)
    count = await ctx.state.get("count", 0) + 1
    await ctx.state.put("count", count)
    ctx.emit(Step(n=job.n, count=count), topic="steps", key=job.key)


def _is_first(mark: str) -> bool:
    """Return whether the file `mark` was not there; now it is. Always, where there is to be none."""
    if mark and Path(mark).exists():
        return False
    if mark:
        Path(mark).touch()
    return True


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


async def _do(job: Job) -> None:
    if job.do == "sleep":
        await asyncio.sleep(job.seconds)
    elif job.do == "block":
        time.sleep(job.seconds)  # noqa: ASYNC251 (a handler that blocks the loop is what is tested)
    elif job.do == "thread":
        await asyncio.to_thread(time.sleep, job.seconds)
    elif job.do == "take":
        bytearray(job.taken_bytes).replace(b"\0", b"\1")  # written to, or it would not be there
    elif job.do == "orphan":
        await (await asyncio.create_subprocess_shell("sleep 0.3 & echo orphan left")).wait()
    elif job.do == "swallow":
        end = time.monotonic() + job.seconds
        while time.monotonic() < end:
            try:
                await asyncio.sleep(job.seconds)
            except asyncio.CancelledError:
                print("swallowed")
    if job.go:
        await asyncio.to_thread(_wait_for, Path(job.go))

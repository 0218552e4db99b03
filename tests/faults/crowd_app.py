"""The app of the crowd: each kind of handler on one topic, some records fail once, some until they are healed.

Every handler but `seen` emits the number of its event inside the commit, so that its output tells what took effect.
"""

import os
import random
from pathlib import Path

from pspf import BaseEvent, BatchError, Context, RetryPolicy, Stream, TumblingWindow

TOPIC = "numbers"
WINDOW_MS = 5_000

stream = Stream(topic=TOPIC, group="crowd")
retry = RetryPolicy(max_attempts=6, initial_ms=20, max_ms=50)


class Number(BaseEvent):
    """A numbered event."""

    n: int


class Poison(Exception):
    """What a record raises that is a dead letter by its own fault."""


def fails_once(n: int) -> bool:
    return n % 29 == 3


def is_poison(n: int) -> bool:
    return n % 211 == 17


def _is_healed() -> bool:
    return Path(os.environ["CROWD_HEALED"]).exists()


def _check(n: int, attempt: int) -> None:
    if fails_once(n) and attempt == 1:
        raise ValueError("once")
    if is_poison(n) and not _is_healed():
        raise Poison(n)


@stream.subscribe(TOPIC, name="copy", retry=retry)
async def copy(event: Number, ctx: Context) -> None:
    _check(event.n, ctx.attempt)
    ctx.emit({"n": event.n}, topic="copied")


@stream.subscribe(TOPIC, name="count", ordering="key", retry=retry)
async def count(event: Number, ctx: Context) -> None:
    _check(event.n, ctx.attempt)
    total = (await ctx.state.get("total") or 0) + 1
    await ctx.state.put("total", total)
    ctx.emit({"n": event.n, "total": total}, topic="counted", key=event.key)


@stream.subscribe(TOPIC, name="bulk", group="bulk", retry=retry)
async def bulk(events: list[Number], ctx: Context) -> None:
    if not _is_healed():
        culprits = {event.offset: Poison(event.n) for event in events if is_poison(event.n)}
        if culprits:
            raise BatchError(culprits)
    for event in events:
        ctx.emit({"n": event.n}, topic="bulked")


@stream.subscribe(TOPIC, name="seen", group="again")
async def seen(event: Number, ctx: Context) -> None:
    ctx.emit({"n": event.n}, topic="seen-again")


@stream.window(TOPIC, TumblingWindow(WINDOW_MS), name="sums", to="summed", emit="final", retry=retry)
async def sums(event: Number, state: list[int] | None) -> list[int]:
    if random.random() < 0.01:
        raise ValueError("now and then")
    return [*(state or []), event.n]

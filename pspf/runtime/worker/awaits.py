"""Await chains of the tasks of an event loop: from each coroutine to the line that waits."""

import asyncio
import io
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

_FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
_WAITS_FOR: Final = ("cr_await", "gi_yieldfrom", "ag_await")
_MOST: Final = 100
"""How deep a chain is followed."""


def describe_tasks() -> str:
    """Return where each task of the running event loop is."""
    text = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        text.write(f"task {task.get_name()}:\n")
        frames = [(frame, frame.f_lineno) for frame in _frames_of(task.get_coro())]
        text.writelines(traceback.StackSummary.extract(iter(frames)).format())
    return text.getvalue()


def _frames_of(awaitable: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of what it awaits, the line that waits last."""
    for _ in range(_MOST):
        frame = _first(awaitable, _FRAMES)
        if frame is None:
            return
        yield frame
        # What drives a coroutine by itself, in a context of its own, names it `work`.
        awaitable = _first(awaitable, _WAITS_FOR) or frame.f_locals.get("work")


def _first(awaitable: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(awaitable, name, None)) is not None), None)

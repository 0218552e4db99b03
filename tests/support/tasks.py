"""Suspended asyncio tasks with the awaits that each is in: shown where a test waits in vain."""

import asyncio
import gc
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def print_tasks() -> None:
    """Write what `describe_tasks` returns to stderr, which pytest shows where a test fails."""
    print(f"--- tasks\n{describe_tasks()}\n---", file=sys.stderr)


def describe_tasks() -> str:
    """Return all other tasks of the running loop, each with its awaits from the outermost to the innermost."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return "\n".join(
        f"{task.get_name()}\n{chr(10).join(_frames(task.get_coro()))}" for task in sorted(tasks, key=_number)
    )


def _number(task: "asyncio.Task[Any]") -> tuple[int, str]:
    return len(task.get_name()), task.get_name()


def _frames(awaited: Any) -> Iterator[str]:
    while awaited is not None:
        if type(awaited).__name__.startswith("async_generator_"):  # a step of a generator tells of nothing itself
            referred = gc.get_referents(awaited)
            awaited = next((each for each in referred if isinstance(each, types.AsyncGeneratorType)), None)
            continue
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            yield f"    {awaited!r:.200}"
            return
        code = frame.f_code
        yield f"    {Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _first(value: Any, *names: str) -> Any:
    return next((found for name in names if (found := getattr(value, name, None)) is not None), None)

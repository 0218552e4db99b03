"""Runs of a test side by side, each in a thread with an event loop of its own: most of a fault's time is waiting."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from tests.faults.runs import KINDS, FilePlace, Place, ServerPlace
from tests.support.servers import hall

Test = Callable[..., Coroutine[Any, Any, None]]


def make_place(kind: str, folder: Path) -> Place:
    """Return an empty broker file in a folder, or an empty database of the session's server. For the main thread."""
    if kind == "sqlite":
        return FilePlace(folder)
    shared = hall(kind)
    return ServerPlace(shared.server, database=shared.database_of(folder))


def run_side_by_side(runs: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run all of `runs` to their ends, whatever becomes of the others; what they raise is raised with their names."""
    with ThreadPoolExecutor(len(runs)) as pool:
        ends = {name: pool.submit(lambda run: asyncio.run(run()), run) for name, run in runs.items()}
    errors = {name: error for name, end in ends.items() if (error := end.exception()) is not None}
    if errors:
        raise BaseExceptionGroup(f"at {', '.join(errors)}", list(errors.values()))


def at_all_places(**opened: Callable[[Path, Place], AbstractContextManager[Any]]) -> Callable[[Test], Any]:
    """Have a test's `place` be each place at once, and its `tmp_path` a folder of that place's.

    Each of `opened` is an argument of the test, which is made of both and open while the test runs.
    """

    def decorate(test: Test) -> Any:
        signature = inspect.signature(test)
        mine = {"place", "tmp_path", *opened}
        others = [parameter for name, parameter in signature.parameters.items() if name not in mine]

        async def run_at(folder: Path, place: Place, arguments: Mapping[str, Any]) -> None:
            with ExitStack() as stack:
                given = {name: stack.enter_context(make(folder, place)) for name, make in opened.items()}
                given |= {"place": place, "tmp_path": folder, **arguments}
                await test(**{name: given[name] for name in signature.parameters})

        @functools.wraps(test)
        def run(tmp_path: Path, **arguments: Any) -> None:
            runs = {}
            for kind in KINDS:
                folder = tmp_path / kind
                folder.mkdir()
                runs[kind] = functools.partial(run_at, folder, make_place(kind, folder), arguments)
            run_side_by_side(runs)

        del run.__wrapped__  # type: ignore[attr-defined]  # or pytest asks for what this gives
        folder = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__signature__ = signature.replace(parameters=[folder, *others])  # type: ignore[attr-defined]
        return run

    return decorate

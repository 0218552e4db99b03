"""Launch of a worker: loads the app, prints the plan, runs it, prints the result."""

import sys
from collections.abc import Callable
from typing import Final

from pspf.connectors.urls import make_broker
from pspf.errors import ConfigurationError
from pspf.runtime.app.loader import LoadedApp, load_app
from pspf.runtime.app.options import WorkerRequest, shape_plan
from pspf.runtime.app.overrides import with_concurrency, with_name, with_orphans
from pspf.runtime.app.plan import AppPlan, describe_plan
from pspf.runtime.app.slow_import import telling_where
from pspf.runtime.worker.leaving import note_app
from pspf.runtime.worker.logs import configure_logging, make_talk
from pspf.runtime.worker.shutdown import end_quietly_on_signals
from pspf.runtime.worker.stdio import show_prints

_PRINT_PATIENCE_S: Final = 1.0
"""A supervisor obeys signals even if its log is not read."""

__all__ = ["WorkerRequest", "launch"]


def launch(request: WorkerRequest, say: Callable[[str], None]) -> int:
    """Run the worker to its end and return the exit code.

    Raises:
        AppNotFound: The app can't be loaded.
        ConfigurationError: What was asked for and the app don't fit together.
    """
    end_quietly_on_signals()
    show_prints(patience_s=_PRINT_PATIENCE_S)
    # The cache of compiled modules knows a source by its size and second: two quick saves would look the same.
    sys.dont_write_bytecode |= request.reload
    configure_logging(request.options.log_level, request.options.log_format)
    say = make_talk(request.options.log_format, say)
    # What follows is imported where it is needed: `--check` and `pspf show` don't pay for a supervisor.
    if request.check:
        return _launch(request, lambda loaded, plan: 0, say)
    if request.in_process:
        from pspf.runtime.in_process import run_here

        return _launch(request, lambda loaded, plan: run_here(loaded, plan, request, say), say)
    from pspf.runtime.processes import fork_base, run_children

    with fork_base() as base:
        return _launch(request, lambda loaded, plan: run_children(loaded, plan, request, base, say), say)


def _launch(request: WorkerRequest, run: Callable[[LoadedApp, AppPlan], int], say: Callable[[str], None]) -> int:
    """Load the app, say what runs, run it."""
    with telling_where(request.target, say):
        loaded = load_app(request.target, request.folder)
    with_concurrency(loaded.stream, request.options.concurrency)
    with_name(loaded.stream, request.options.name)
    with_orphans(loaded.stream, request.options.accept_orphans)
    if request.options.backend is not None:
        loaded.stream.bind(make_broker(request.options.backend))
    loaded.stream.check()
    plan = shape_plan(loaded.make_plan(), request)
    broker = loaded.stream.broker
    if not (broker.capabilities.multi_process and broker.capabilities.roster) and not request.in_process:
        raise ConfigurationError(
            f"{broker.name}: this broker lives inside one process, nothing else could emit to it or see it\n"
            "  use a file (--backend sqlite:///broker.db), or --in-process"
        )
    for line in describe_plan(plan, broker=broker.name, in_process=request.in_process):
        say(line)
    if request.check:
        return 0
    if not plan.groups:
        say(f"{loaded.target} has no handlers; nothing to do: decorate some with @stream.subscribe(...)")
        return 0
    note_app()
    return run(loaded, plan)

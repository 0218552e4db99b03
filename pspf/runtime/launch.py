"""`pspf worker`, between the arguments and the processes: loads the app, says what runs, runs it, says how it ended."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pspf.connectors.urls import make_broker
from pspf.errors import ConfigurationError, NotAvailable
from pspf.runtime.control import ProcessControl, SupervisorControl
from pspf.runtime.forking import serve, why_not_forkable
from pspf.runtime.loader import LoadedApp, load_app
from pspf.runtime.logs import configure_logging
from pspf.runtime.monitor import Monitor
from pspf.runtime.nursery import IS_AVAILABLE, Nursery
from pspf.runtime.overrides import with_concurrency, with_name
from pspf.runtime.patience import connect_patiently, say_missing_topics
from pspf.runtime.plan import AppPlan, ChildSpec, CursorName, WorkerOptions, describe_plan
from pspf.runtime.presence import Presence, PresenceThread, make_worker_id
from pspf.runtime.process import Spawner
from pspf.runtime.restarts import RestartPolicy
from pspf.runtime.stages import end_quietly_on_signals
from pspf.runtime.supervisor import App, Supervisor
from pspf.runtime.worker import Worker, prepare_process, read_final_lag, run_process
from pspf.settings import settings
from pspf.subscription import Subscription

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked `pspf worker` for; `processes` as `-w` takes it."""

    target: str
    folder: Path
    options: WorkerOptions
    processes: str | None = None
    only: Sequence[str] = ()
    in_process: bool = False
    reload: bool = False
    check: bool = False


def launch(request: Request, say: Callable[[str], None]) -> int:
    """Run the worker to its end and return the exit code.

    Raises:
        AppNotFound: The app can't be loaded.
        ConfigurationError: What was asked for and the app don't fit together.
    """
    end_quietly_on_signals()
    configure_logging(request.options.log_level, request.options.log_format)
    with _base_of(request) as base:
        return _launch(request, base, say)


@contextmanager
def _base_of(request: Request) -> Iterator[Nursery | None]:
    """Fork a base, where processes will be needed, before the app is imported; close it at the end."""
    if request.check or request.in_process or not IS_AVAILABLE:
        yield None
        return
    base = Nursery.fork(lambda connection: serve(connection, None))
    try:
        yield base
    finally:
        base.close()


def _launch(request: Request, base: Nursery | None, say: Callable[[str], None]) -> int:
    loaded = load_app(request.target, request.folder)
    with_concurrency(loaded.stream, request.options.concurrency)
    with_name(loaded.stream, request.options.name)
    if request.options.backend is not None:
        loaded.stream.bind(make_broker(request.options.backend))
    loaded.stream.check()
    plan = _shape(loaded.make_plan(), request)
    broker = loaded.stream.broker
    if not broker.is_shared and not request.in_process:
        raise ConfigurationError(
            f"{broker.name}: the memory broker lives inside one process, nothing else could emit to it or see it\n"
            "  use a file (--backend sqlite:///broker.db), or --in-process"
        )
    for line in describe_plan(plan, broker=broker.name, in_process=request.in_process):
        say(line)
    if request.check:
        return 0
    if not plan.groups:
        say(f"{loaded.target} has no handlers; nothing to do")
        return 0
    if request.in_process:
        return _run_here(loaded, plan, request, say)
    return _run_children(loaded, plan, request, base, say)


def _shape(plan: AppPlan, request: Request) -> AppPlan:
    """Return the part of the plan that was asked for."""
    plan = plan.only(request.only) if request.only else plan
    return plan.with_processes(request.processes) if request.processes else plan


def _run_here(loaded: LoadedApp, plan: AppPlan, request: Request, say: Callable[[str], None]) -> int:
    prepare_process(request.options)
    chosen = {(group.topic, group.group) for group in plan.groups}

    def is_chosen(subscription: Subscription) -> bool:
        return (subscription.topic, subscription.group) in chosen

    monitor = Monitor(loaded.stream, lambda: worker.stages.stage.value)
    worker = Worker(loaded.stream, request.options, cursors=plan.cursors, only=is_chosen, say=say, watcher=monitor)
    worker.stages.install()
    if loaded.stream.broker.is_shared:
        control = ProcessControl(monitor, worker.stages)
        worker.companion = _make_presence(loaded, request, control).run
    ended = run_process(worker.run(), request.options.loop)
    say(ended.totals.describe(_final_lag(loaded, plan.cursors)))
    return ended.code


def _run_children(
    loaded: LoadedApp, plan: AppPlan, request: Request, base: Nursery | None, say: Callable[[str], None]
) -> int:
    spawner = Spawner(base, _make_nursery(loaded, base), say)
    asyncio.run(_meet_broker(loaded, plan, say))
    supervisor = Supervisor(
        App(plan.target, request.folder, lambda new: _make_specs(_shape(new, request), request.options)),
        spawner,
        say,
        drain_timeout_ms=request.options.drain_timeout_ms,
        loop_stall_ms=request.options.loop_stall_ms,
        is_burst=request.options.burst,
        waits_for_saves=request.reload,
        policy=RestartPolicy(
            initial_ms=settings.RESTART_INITIAL_MS, max_ms=settings.RESTART_MAX_MS, healthy_ms=settings.HEALTHY_MS
        ),
    )
    with ExitStack() as stack:
        presence = stack.enter_context(PresenceThread(_make_presence(loaded, request, SupervisorControl(supervisor))))
        supervisor.on_change = presence.change
        supervisor.read_broker_answers_ms = lambda: presence.broker_answers_ms
        if request.reload:
            stack.enter_context(_watch_files(request.folder, supervisor))
        outcome = supervisor.run(_make_specs(plan, request.options))
    if outcome.error is not None:
        raise outcome.error
    say(outcome.totals.describe(_final_lag(loaded, plan.cursors)))
    return outcome.code


def _watch_files(folder: Path, supervisor: Supervisor) -> AbstractContextManager[None]:
    # Deferred: a watcher costs 50 ms that only --reload needs.
    from pspf.runtime.reload import FileWatcher

    def on_save(what: str) -> None:
        supervisor.post(lambda: supervisor.reload(what))

    return FileWatcher(folder, on_save)


def _make_presence(loaded: LoadedApp, request: Request, control: SupervisorControl | ProcessControl) -> Presence:
    worker = make_worker_id(request.options.name or loaded.stream.name)
    return Presence(loaded.stream.broker, worker, loaded.target, control.describe, control.obey)


def _make_nursery(loaded: LoadedApp, base: Nursery | None) -> Nursery | None:
    """Return where processes with the app come from; None where they have to import it by themselves."""
    if base is None:
        return None
    reason = why_not_forkable(own_sockets=1)
    if reason is not None:
        logger.info("%s can't be shared by forking: %s; each process imports it by itself", loaded.target, reason)
        return None
    return Nursery.fork(lambda connection: serve(connection, loaded), beside=base)


def _make_specs(plan: AppPlan, options: WorkerOptions) -> list[ChildSpec]:
    return [
        ChildSpec(plan.target, plan.folder, group.topic, group.group, plan.cursors, options)
        for group in plan.groups
        for _ in range(group.processes)
    ]


async def _meet_broker(loaded: LoadedApp, plan: AppPlan, say: Callable[[str], None]) -> None:
    """Wait for the broker before there are processes, so that one line says that it is down, not one per process.

    A signal in the meantime ends this process quietly: nothing is in hand yet.
    """
    broker = loaded.stream.broker
    try:
        await connect_patiently(broker, asyncio.Event(), say)
        await say_missing_topics(broker, (group.topic for group in plan.groups), say)
    finally:
        await broker.close()


def _final_lag(loaded: LoadedApp, cursors: Sequence[CursorName]) -> int | None:
    return asyncio.run(read_final_lag(loaded.stream, cursors))


def refuse_unavailable(*, admin: str, metrics: str, final: bool) -> None:
    """Refuse what this version does not have.

    Raises:
        NotAvailable: It was asked for.
    """
    asked = {
        f"--admin {admin}": admin != "off",
        f"--metrics {metrics}": metrics != "off",
        "--final (it closes windows, and there are none)": final,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise NotAvailable(f"{option} is not available in this version")

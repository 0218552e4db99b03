"""Worker of several processes: wires the supervisor to the app, the admin and the roster."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pspf.connectors.identity import make_session_id
from pspf.errors import ConfigurationError
from pspf.loggers import get_logger
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.app.options import WorkerRequest, shape_plan
from pspf.runtime.app.plan import AppPlan, ChildSpec, WorkerOptions
from pspf.runtime.control.admin_process import AdminThread
from pspf.runtime.control.commands import SupervisorControl
from pspf.runtime.control.listeners import open_listeners, showing
from pspf.runtime.control.presence import Presence, PresenceThread
from pspf.runtime.forkserver.client import IS_AVAILABLE, ForkServer
from pspf.runtime.forkserver.server import serve, why_not_forkable
from pspf.runtime.status.exit_status import BURST_TIMED_OUT
from pspf.runtime.supervision.importing import App
from pspf.runtime.supervision.process import Spawner
from pspf.runtime.supervision.restarts import RestartPolicy
from pspf.runtime.supervision.supervisor import Supervisor
from pspf.runtime.worker.drain import add_up, describe_left
from pspf.runtime.worker.meeting import meet_broker, read_final_lags
from pspf.settings import settings

logger = get_logger(__name__)

_HURRIED_S: Final = 0.2
"""How long the worker may take to withdraw when it has given up its batches."""


@contextmanager
def fork_base() -> Iterator[ForkServer | None]:
    """Fork a base, where processes will be needed, before the app is imported; close it at the end."""
    if not IS_AVAILABLE:
        yield None
        return
    base = ForkServer.fork(lambda connection: serve(connection, None))
    try:
        yield base
    finally:
        base.close()


def run_children(
    loaded: LoadedApp, plan: AppPlan, request: WorkerRequest, base: ForkServer | None, say: Callable[[str], None]
) -> int:
    """Run a worker's processes, its admin and its place in the roster, to the end; return the exit code."""
    spawner = Spawner(base, _fork_app_server(loaded, base), say)
    listeners = open_listeners(request)
    for line in listeners.describe(request.options.log_format):
        say(line)
    reloaded = _ReloadedApp(request)
    supervisor = _make_supervisor(plan, request, spawner, reloaded, say)
    worker, control = make_session_id(request.options.name or loaded.stream.name), SupervisorControl(supervisor)
    with ExitStack() as stack:
        reloaded.admin = stack.enter_context(
            showing(listeners, loaded, plan.shapes, control, worker=worker, log_format=request.options.log_format)
        )
        try:
            identity = asyncio.run(meet_broker(loaded, plan, request.options, say))
        except TimeoutError:
            say(f"the broker was not there within {request.options.burst_timeout_ms} ms")
            spawner.close()
            return BURST_TIMED_OUT
        options = replace(request.options, broker_identity=identity)
        reloaded.request = replace(request, options=options)
        presence = stack.enter_context(
            PresenceThread(
                Presence(loaded.stream.broker, worker, loaded.target, control.describe, control.obey),
                on_gone=lambda error: supervisor.post(lambda: supervisor.fail(error)),
            )
        )
        supervisor.on_change = presence.change
        supervisor.read_broker_answers_ms = lambda: presence.broker_answers_ms
        if request.reload:
            stack.enter_context(_watch_files(request.folder, supervisor))
        outcome = supervisor.run(_make_specs(plan, options))
        if outcome.is_given_up:
            presence.leave_s = _HURRIED_S
            obstacle = loaded.stream.broker.find_obstacle()
            if obstacle is not None:
                say(f"what was in hand was given up: {obstacle}")
        if outcome.error is not None:
            raise outcome.error
        # While the worker still has the broker open: on a full disk it may not open again.
        lags = asyncio.run(read_final_lags(loaded, plan.cursors, is_hurried=outcome.is_given_up))
    if outcome.code == BURST_TIMED_OUT:
        say(describe_left(lags, request.options.burst_timeout_ms))
    say(outcome.totals.describe(add_up(lags)))
    return outcome.code


@dataclass(slots=True)
class _ReloadedApp:
    """The app as it is imported again: its processes, and its handlers for the admin."""

    request: WorkerRequest
    admin: AdminThread | None = None

    def make_specs(self, new: AppPlan) -> list[ChildSpec]:
        shaped = shape_plan(new, self.request)
        if not shaped.groups:
            raise ConfigurationError(f"{shaped.target} has no handlers any more")
        if self.admin is not None:
            self.admin.handlers = shaped.shapes
        return _make_specs(shaped, self.request.options)


def _make_supervisor(
    plan: AppPlan, request: WorkerRequest, spawner: Spawner, reloaded: _ReloadedApp, say: Callable[[str], None]
) -> Supervisor:
    return Supervisor(
        App(plan.target, request.folder, reloaded.make_specs, request.options.backend),
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


def _watch_files(folder: Path, supervisor: Supervisor) -> AbstractContextManager[None]:
    # Deferred: a watcher costs 50 ms that only --reload needs.
    from pspf.runtime.supervision.reloading import FileWatcher

    def on_save(what: str) -> None:
        supervisor.post(lambda: supervisor.reload(what))

    return FileWatcher(folder, on_save)


def _fork_app_server(loaded: LoadedApp, base: ForkServer | None) -> ForkServer | None:
    """Return where processes with the app come from; None where they have to import it by themselves."""
    if base is None:
        return None
    reason = why_not_forkable(own_sockets=1)
    if reason is not None:
        logger.info("%s can't be shared by forking: %s; each process imports it by itself", loaded.target, reason)
        return None
    return ForkServer.fork(lambda connection: serve(connection, loaded), beside=base)


def _make_specs(plan: AppPlan, options: WorkerOptions) -> list[ChildSpec]:
    return [
        ChildSpec(plan.target, plan.folder, group.topic, group.group, plan.work, options)
        for group in plan.groups
        for _ in range(group.processes)
    ]

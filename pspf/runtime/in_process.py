"""Worker in one process."""

from collections.abc import Callable

from pspf.connectors.identity import make_session_id
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.app.options import WorkerRequest
from pspf.runtime.app.plan import AppPlan
from pspf.runtime.control.commands import ProcessControl
from pspf.runtime.control.listeners import open_listeners, showing
from pspf.runtime.control.presence import Presence
from pspf.runtime.status.exit_status import STOPPED
from pspf.runtime.worker.drain import add_up
from pspf.runtime.worker.leaving import bound_exit
from pspf.runtime.worker.meeting import read_final_lags
from pspf.runtime.worker.monitor import Monitor
from pspf.runtime.worker.stdio import take_back
from pspf.runtime.worker.worker import Ended, Worker, prepare_process, run_process
from pspf.subscription import Subscription


async def _run_to_the_end(worker: Worker, loaded: LoadedApp, plan: AppPlan, say: Callable[[str], None]) -> Ended:
    """Run a worker, and say what it did before the event loop is closed, which waits for what was left in threads."""
    try:
        ended = await worker.run()
    finally:
        worker.stages.end()
        take_back()
    lags = await read_final_lags(loaded, plan.cursors, is_hurried=ended.code in STOPPED)
    say(ended.totals.describe(add_up(lags)))
    bound_exit(ended.code)
    return ended


def run_here(loaded: LoadedApp, plan: AppPlan, request: WorkerRequest, say: Callable[[str], None]) -> int:
    prepare_process(request.options)
    chosen = {(group.topic, group.group) for group in plan.groups}

    def is_chosen(subscription: Subscription) -> bool:
        return (subscription.topic, subscription.group) in chosen

    monitor = Monitor(loaded.stream, lambda: worker.stages.stage.value, is_chosen)
    worker = Worker(loaded.stream, request.options, work=plan.work, only=is_chosen, say=say, watcher=monitor)
    worker.stages.install()
    control = ProcessControl(monitor, worker.stages)
    name = make_session_id(request.options.name or loaded.stream.name)
    can = loaded.stream.broker.capabilities
    if can.multi_process and can.roster:
        presence = Presence(loaded.stream.broker, name, loaded.target, control.describe, control.obey)
        worker.companion = presence.run
    listeners = open_listeners(request)
    for line in listeners.describe(request.options.log_format):
        say(line)
    with showing(listeners, loaded, plan.shapes, control, worker=name, log_format=request.options.log_format):
        return run_process(_run_to_the_end(worker, loaded, plan, say), request.options.loop).code

"""A worker that is one process."""

from collections.abc import Callable

from pspf.connectors.identity import make_session_id
from pspf.runtime.control import ProcessControl
from pspf.runtime.front import open_front, showing
from pspf.runtime.loader import LoadedApp
from pspf.runtime.meeting import final_lag
from pspf.runtime.monitor import Monitor
from pspf.runtime.outcome import STOPPED
from pspf.runtime.plan import AppPlan
from pspf.runtime.presence import Presence
from pspf.runtime.request import Request
from pspf.runtime.worker import Worker, prepare_process, run_process
from pspf.subscription import Subscription


def run_here(loaded: LoadedApp, plan: AppPlan, request: Request, say: Callable[[str], None]) -> int:
    prepare_process(request.options)
    chosen = {(group.topic, group.group) for group in plan.groups}

    def is_chosen(subscription: Subscription) -> bool:
        return (subscription.topic, subscription.group) in chosen

    monitor = Monitor(loaded.stream, lambda: worker.stages.stage.value, is_chosen)
    worker = Worker(loaded.stream, request.options, work=plan.work, only=is_chosen, say=say, watcher=monitor)
    worker.stages.install()
    control = ProcessControl(monitor, worker.stages)
    name = make_session_id(request.options.name or loaded.stream.name)
    if loaded.stream.broker.is_shared:
        presence = Presence(loaded.stream.broker, name, loaded.target, control.describe, control.obey)
        worker.companion = presence.run
    front = open_front(request)
    for line in front.describe(request.options.log_format):
        say(line)
    with showing(front, loaded, plan.shapes, control, worker=name, log_format=request.options.log_format):
        ended = run_process(worker.run(), request.options.loop)
    say(ended.totals.describe(final_lag(loaded, plan.cursors, is_hurried=ended.code in STOPPED)))
    return ended.code

"""A worker process: forked by the fork server, or `python -m pspf.runtime.worker.child`.

What its supervisor wants comes as lines through a pipe, whose end tells that the supervisor is gone.
"""

import faulthandler
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pspf.concurrency.background import attempt
from pspf.connectors.urls import make_broker
from pspf.errors import PSPFError
from pspf.loggers import get_logger
from pspf.runtime.app.loader import LoadedApp, load_app
from pspf.runtime.app.overrides import with_concurrency, with_name, with_orphans
from pspf.runtime.app.plan import ChildSpec
from pspf.runtime.status.reports import STACKS_SIGNAL, Ending, ReportPipe
from pspf.runtime.worker.heartbeat import Heartbeat
from pspf.runtime.worker.leaving import bound_exit, note_app
from pspf.runtime.worker.monitor import Monitor
from pspf.runtime.worker.prctl import name_process
from pspf.runtime.worker.shutdown import Stages, end_quietly_on_signals
from pspf.runtime.worker.stdio import show_prints, take_back
from pspf.runtime.worker.worker import Ended, Worker, prepare_process, run_process
from pspf.subscription import Subscription

ORPHAN_DRAIN_MS: Final = 500
"""How long a worker without a supervisor may go on; giving up its handlers takes at most 1 s more."""


def main() -> int:
    """Run one child; return its exit code."""
    show_prints(patience_s=1.0)  # until its spec is read
    commands = read_lines(_take_stdin())
    line = next(commands, None)
    if line is None:
        return 0  # the supervisor ended before it sent a spec
    told = json.loads(line)
    for descriptor in (told["report_fd"], told["stacks_fd"]):
        os.set_inheritable(descriptor, False)  # a process that a handler starts must not hold the pipe open
    return run_child(ChildSpec.from_json(told["spec"]), commands, told["report_fd"], told["stacks_fd"], None)


def run_child(
    spec: ChildSpec, commands: Iterator[bytes], report_fd: int, stacks_fd: int, loaded: LoadedApp | None
) -> int:
    """Be a worker process to the end; return its exit code. `loaded` is the app, where it has been imported."""
    end_quietly_on_signals()
    name_process(f"pspf {spec.label}")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's to see
    faulthandler.register(STACKS_SIGNAL, file=stacks_fd, all_threads=True)
    os.close(_take_stdin())
    pipe = ReportPipe(report_fd)
    note_app()
    try:
        return _run(spec, commands, pipe, loaded).code
    except PSPFError as error:
        if spec.options.log_level.upper() == "DEBUG":
            traceback.print_exc()
        pipe.write(Ending(None, (type(error).__name__, str(error))))
        bound_exit(1)
        return 1
    finally:
        take_back()


def _run(spec: ChildSpec, commands: Iterator[bytes], pipe: ReportPipe, loaded: LoadedApp | None) -> Ended:
    prepare_process(spec.options)
    if loaded is None:
        loaded = load_app(spec.target, Path(spec.folder))
    stream = loaded.stream
    with_concurrency(stream, spec.options.concurrency)
    with_name(stream, spec.options.name)
    with_orphans(stream, spec.options.accept_orphans)
    if spec.options.backend is not None:
        stream.bind(make_broker(spec.options.backend))
    stream.broker.expect(spec.options.broker_identity)

    def is_ours(subscription: Subscription) -> bool:
        return (subscription.topic, subscription.group) == (spec.topic, spec.group)

    monitor = Monitor(stream, lambda: worker.stages.stage.value, is_ours)
    # The supervisor prints the messages; those of a child would come once per process.
    worker = Worker(stream, spec.options, work=spec.work, only=is_ours, say=lambda text: None, watcher=monitor)
    # Only the supervisor says when to give up: where a whole group of processes is sent SIGTERM,
    # as systemd does, its own comes on top of that.
    worker.stages.install(escalates=False)
    heart = Heartbeat(monitor, pipe)
    heart.start()
    threading.Thread(target=_obey, args=(commands, worker.stages, heart), name="pspf-supervisor", daemon=True).start()
    try:
        return run_process(_run_and_tell(worker, pipe), spec.options.loop)
    finally:
        heart.beat()  # reports the work since the last beat


async def _run_and_tell(worker: Worker, pipe: ReportPipe) -> Ended:
    """Run a worker, and tell its end before the event loop is closed, which waits for what handlers left in threads."""
    code = 1
    try:
        ended = await worker.run()
        pipe.write(Ending(ended.totals, is_drained=ended.is_drained))
        code = ended.code
        return ended
    except PSPFError as error:
        pipe.write(Ending(None, (type(error).__name__, str(error))))
        raise
    finally:
        bound_exit(code, within_ms=worker.stages.end())


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines that come through a pipe, until its end; the descriptor stays open."""
    buffer = b""
    while chunk := os.read(descriptor, 65536):
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from lines


def _take_stdin() -> int:
    """Return a descriptor of what stdin was, and leave the handlers an empty one."""
    descriptor = os.dup(0)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    return descriptor


def _obey(commands: Iterator[bytes], stages: Stages, heart: Heartbeat) -> None:
    """Obey the supervisor; drain within a short time when it is gone, as another one may start soon."""
    try:
        for line in commands:
            attempt("a command of the supervisor", functools.partial(_do, line, stages, heart))
    finally:  # also where the pipe can't be read any more
        stages.begin_drain(timeout_ms=ORPHAN_DRAIN_MS)


def _do(line: bytes, stages: Stages, heart: Heartbeat) -> None:
    command: dict[str, Any] = json.loads(line)
    match command:
        case {"do": "drain", "timeout_ms": timeout_ms}:
            stages.begin_drain(timeout_ms=timeout_ms)
        case {"do": "give up", "code": code}:
            stages.begin_give_up(code)
        case {"do": "log level", "level": level}:
            get_logger("pspf").setLevel(level)
        case {"do": "tasks"}:
            heart.tell_tasks()


if __name__ == "__main__":
    sys.exit(main())

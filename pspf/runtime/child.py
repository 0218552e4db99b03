"""A worker process: `python -m pspf.runtime.child`, started by the supervisor, told what to do on its stdin."""

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pspf.connectors.urls import make_broker
from pspf.errors import PSPFError
from pspf.runtime.loader import load_app
from pspf.runtime.overrides import with_concurrency
from pspf.runtime.plan import ChildSpec
from pspf.runtime.stages import end_quietly_on_signals
from pspf.runtime.worker import Ended, Worker, prepare_process, run_process
from pspf.subscription import Subscription

ORPHAN_DRAIN_MS: Final = 500
"""How long a worker without a supervisor may go on; giving up its handlers takes at most 1 s more."""


def main() -> int:
    """Run one child; return its exit code."""
    end_quietly_on_signals()
    parent_fd = _take_stdin()
    with open(parent_fd, "rb", buffering=0, closefd=False) as stdin:
        line = _read_line(stdin.read)
    if not line:
        return 0  # the supervisor was gone before it could say anything
    spec = ChildSpec.from_json(line)
    os.set_inheritable(spec.report_fd, False)  # what a handler starts must not hold the pipe open
    try:
        ended = _run(spec, parent_fd)
    except PSPFError as error:
        if spec.options.log_level.upper() == "DEBUG":
            traceback.print_exc()
        _report(spec, {"error": {"kind": type(error).__name__, "message": str(error)}})
        return 1
    _report(spec, {"totals": asdict(ended.totals)})
    return ended.code


def _run(spec: ChildSpec, parent_fd: int) -> Ended:
    prepare_process(spec.options)
    stream = load_app(spec.target, Path(spec.folder)).stream
    with_concurrency(stream, spec.options.concurrency)
    if spec.options.backend is not None:
        stream.bind(make_broker(spec.options.backend))

    def is_ours(subscription: Subscription) -> bool:
        return (subscription.topic, subscription.group) == (spec.topic, spec.group)

    # The supervisor has said what there is to say; what a child adds would come once per process.
    worker = Worker(stream, spec.options, cursors=spec.cursors, only=is_ours, say=lambda text: None)
    worker.stages.install()
    watch = threading.Thread(
        target=_watch, args=(parent_fd, worker.stages.begin_drain), name="pspf-parent", daemon=True
    )
    watch.start()
    return run_process(worker.run(), spec.options.loop)


def _take_stdin() -> int:
    """Return a descriptor of the supervisor's pipe, and leave the handlers an empty stdin."""
    parent_fd = os.dup(0)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    return parent_fd


def _read_line(read: Callable[[int], bytes]) -> str:
    """Return the first line; the supervisor sends exactly one."""
    line = b""
    while not line.endswith(b"\n") and (chunk := read(65536)):
        line += chunk
    return line.decode() if line.endswith(b"\n") else ""


def _watch(parent_fd: int, begin_drain: Callable[..., None]) -> None:
    """Wait until the supervisor is gone, then drain, shortly: there may be another one soon."""
    while os.read(parent_fd, 4096):
        pass
    begin_drain(timeout_ms=ORPHAN_DRAIN_MS)


def _report(spec: ChildSpec, report: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody is left to read it
        os.write(spec.report_fd, json.dumps(report).encode())


if __name__ == "__main__":
    sys.exit(main())

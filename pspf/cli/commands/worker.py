"""`pspf worker`: runs an app."""

import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.console import say
from pspf.cli.exit_codes import UsageError
from pspf.cli.options import App
from pspf.cli.parsing import parse_span_ms

if TYPE_CHECKING:
    from pspf.runtime.app.plan import WorkerOptions

app = typer.Typer()


class Loop(StrEnum):
    """Event loops of `--loop`."""

    AUTO = "auto"
    UVLOOP = "uvloop"
    ASYNCIO = "asyncio"


class LogFormat(StrEnum):
    """Formats of `--log-format`."""

    RICH = "rich"
    PLAIN = "plain"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of `pspf worker`; `pspf dev` has some of them."""

    app: App = None
    processes: Annotated[
        str | None,
        typer.Option(
            "--processes",
            "-w",
            metavar="N",
            help="Processes for each topic group, or TOPIC=N,TOPIC/GROUP=N; default 1.",
        ),
    ] = None
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="All in this process, no children: for a debugger. A handler that ends it by os._exit(0) or exec"
            " ends a --burst with 0 then, with work left.",
        ),
    ] = False
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "-c", min=1, metavar="N", help="Handler runs side by side, in each process."),
    ] = None
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="TOPIC", help="Only handlers of this topic; repeat it.")
    ] = None
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="PREFIX", help="What worker ids start with, instead of the host's name."),
    ] = None
    burst: Annotated[bool, typer.Option("--burst", help="Stop when nothing is left to do.")] = False
    burst_timeout: Annotated[
        str | None, typer.Option("--burst-timeout", metavar="SPAN", help="Exit 9 where the burst takes longer: 5m.")
    ] = None
    final: Annotated[bool, typer.Option("--final", help="With --burst: close and emit the open windows first.")] = False
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a source file changes.")] = False
    drain_timeout: Annotated[
        str | None, typer.Option("--drain-timeout", metavar="SPAN", help="How long a stop may take; default 25s.")
    ] = None
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin",
            metavar="HOST:PORT",
            help="Dashboard, health and control over HTTP, or off; default PSPF_ADMIN, else 127.0.0.1:8001.",
            show_default=False,
        ),
    ] = None
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            "--admin-token-file",
            metavar="FILE",
            help="The token that control asks for; default PSPF_ADMIN_TOKEN, else a random one.",
            show_default=False,
        ),
    ] = None
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            help="One more port for Prometheus alone, or off; /metrics is on the admin's as well.",
            show_default=False,
        ),
    ] = None
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", metavar="LEVEL", help="Default PSPF_LOG_LEVEL, else INFO.", show_default=False),
    ] = None
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Default PSPF_LOG_FORMAT, else rich on a terminal.", show_default=False)
    ] = None
    loop: Annotated[Loop, typer.Option(help="The event loop.")] = Loop.AUTO
    accept_orphans: Annotated[
        bool,
        typer.Option("--accept-orphans", help="Start though handlers were renamed or removed; new ones start over."),
    ] = False
    check: Annotated[bool, typer.Option("--check", help="Load the app, print the plan, exit.")] = False

    def refuse_contradictions(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            UsageError: Two of them do.
        """
        if self.burst_timeout is not None and not self.burst:
            raise UsageError("--burst-timeout belongs to --burst")
        if self.final and not self.burst:
            raise UsageError("--final belongs to --burst: it closes the open windows at the end of the input")
        if self.in_process and self.processes is not None:
            raise UsageError("--in-process runs one process; leave -w out")
        if self.reload and (self.in_process or self.burst):
            raise UsageError("--reload starts processes again: not with --in-process or --burst")


@command(
    app,
    "pspf worker myapp:stream",
    "pspf worker myapp:stream --burst --final --burst-timeout 5m",
    "pspf worker myapp:stream -w orders=4,clicks/stats=2 -c 10",
    has_json=False,
)
def worker(call: Invocation, given: Arguments) -> int:
    """Run an app's handlers until SIGTERM or Ctrl-C: a first one finishes running batches, a second drops them."""
    from pspf.cli.services.project import find_app
    from pspf.runtime.launch import WorkerRequest, launch

    given.refuse_contradictions()
    options = _make_options(given, call.backend)
    target, folder = find_app(given.app)
    request = WorkerRequest(
        target,
        folder,
        options,
        processes=given.processes,
        only=tuple(given.only or ()),
        in_process=given.in_process,
        reload=given.reload,
        check=given.check,
        admin=given.admin,
        metrics=given.metrics,
        token_file=given.admin_token_file,
    )
    return launch(request, say)


def _make_options(given: Arguments, backend: str | None) -> "WorkerOptions":
    """Return the options of a worker's processes."""
    from pspf.runtime.app.plan import WorkerOptions
    from pspf.settings import settings

    burst_timeout_ms = None if given.burst_timeout is None else parse_span_ms(given.burst_timeout)
    drain_timeout_ms = None if given.drain_timeout is None else parse_span_ms(given.drain_timeout)
    return WorkerOptions(
        backend=backend,
        name=given.name,
        concurrency=given.concurrency,
        burst=given.burst,
        burst_timeout_ms=burst_timeout_ms,
        burst_ends_s=None if burst_timeout_ms is None else time.monotonic() + burst_timeout_ms / 1000,
        final=given.final,
        loop_stall_ms=settings.LOOP_STALL_MS,
        drain_timeout_ms=settings.DRAIN_TIMEOUT_MS if drain_timeout_ms is None else drain_timeout_ms,
        loop=given.loop.value,
        log_level=given.log_level or settings.LOG_LEVEL,
        log_format=given.log_format.value if given.log_format else _default_format(settings.LOG_FORMAT),
        accept_orphans=given.accept_orphans,
    )


def _default_format(setting: str) -> str:
    """Return the setting, but no colours into a file."""
    return LogFormat.PLAIN.value if setting == LogFormat.RICH and not sys.stderr.isatty() else setting

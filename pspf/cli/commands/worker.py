"""`pspf worker`: runs an app."""

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pspf.cli.console import say
from pspf.cli.exit_codes import UsageError
from pspf.cli.options import App, Backend, CliCommand, Verbose, examples
from pspf.cli.parsing import parse_span_ms

_EXAMPLES = examples(
    "pspf worker myapp:stream",
    "pspf worker myapp:stream --burst --final --burst-timeout 5m",
    "pspf worker myapp:stream -w orders=4,clicks/stats=2 -c 10",
)


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


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=CliCommand, epilog=_EXAMPLES)(worker)


def worker(
    app: App = None,
    processes: Annotated[
        str | None,
        typer.Option(
            "--processes",
            "-w",
            metavar="N",
            help="Processes for each topic group, or TOPIC=N,TOPIC/GROUP=N; default 1.",
        ),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="All in this process, no children: for a debugger. A handler that ends it by os._exit(0) or exec"
            " ends a --burst with 0 then, with work left.",
        ),
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "-c", min=1, metavar="N", help="Handler runs side by side, in each process."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="TOPIC", help="Only handlers of this topic; repeat it.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="PREFIX", help="What worker ids start with, instead of the host's name."),
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="Stop when nothing is left to do.")] = False,
    burst_timeout: Annotated[
        str | None, typer.Option("--burst-timeout", metavar="SPAN", help="Exit 9 where the burst takes longer: 5m.")
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="With --burst: close and emit the open windows first.")
    ] = False,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a source file changes.")] = False,
    drain_timeout: Annotated[
        str | None, typer.Option("--drain-timeout", metavar="SPAN", help="How long a stop may take; default 25s.")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin",
            metavar="HOST:PORT",
            help="Dashboard, health and control over HTTP, or off; default PSPF_ADMIN, else 127.0.0.1:8001.",
            show_default=False,
        ),
    ] = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            "--admin-token-file",
            metavar="FILE",
            help="The token that control asks for; default PSPF_ADMIN_TOKEN, else a random one.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            help="One more port for Prometheus alone, or off; /metrics is on the admin's as well.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", metavar="LEVEL", help="Default PSPF_LOG_LEVEL, else INFO.", show_default=False),
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Default PSPF_LOG_FORMAT, else rich on a terminal.", show_default=False)
    ] = None,
    loop: Annotated[Loop, typer.Option(help="The event loop.")] = Loop.AUTO,
    accept_orphans: Annotated[
        bool,
        typer.Option("--accept-orphans", help="Start though handlers were renamed or removed; new ones begin anew."),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Load the app, print the plan, exit.")] = False,
    backend: Backend = None,
    verbose: Verbose = False,
) -> None:
    """Run an app's handlers until SIGTERM or Ctrl-C; a first signal finishes what is in hand, a second gives it up."""
    from pspf.cli.services.project import find_app
    from pspf.runtime.app.plan import WorkerOptions
    from pspf.runtime.launch import WorkerRequest, launch
    from pspf.settings import settings

    if burst_timeout is not None and not burst:
        raise UsageError("--burst-timeout belongs to --burst")
    if final and not burst:
        raise UsageError("--final belongs to --burst: it closes the open windows at the end of the input")
    if in_process and processes is not None:
        raise UsageError("--in-process runs one process; leave -w out")
    if reload and (in_process or burst):
        raise UsageError("--reload starts processes again: not with --in-process or --burst")
    burst_timeout_ms = None if burst_timeout is None else parse_span_ms(burst_timeout)
    options = WorkerOptions(
        backend=backend,
        name=name,
        concurrency=concurrency,
        burst=burst,
        burst_timeout_ms=burst_timeout_ms,
        burst_ends_s=None if burst_timeout_ms is None else time.monotonic() + burst_timeout_ms / 1000,
        final=final,
        loop_stall_ms=settings.LOOP_STALL_MS,
        drain_timeout_ms=settings.DRAIN_TIMEOUT_MS if drain_timeout is None else parse_span_ms(drain_timeout),
        loop=loop.value,
        log_level=log_level or settings.LOG_LEVEL,
        log_format=log_format.value if log_format else _default_format(settings.LOG_FORMAT),
        accept_orphans=accept_orphans,
    )
    target, folder = find_app(app)
    request = WorkerRequest(
        target,
        folder,
        options,
        processes=processes,
        only=tuple(only or ()),
        in_process=in_process,
        reload=reload,
        check=check,
        admin=admin,
        metrics=metrics,
        token_file=admin_token_file,
    )
    raise typer.Exit(launch(request, say))


def _default_format(setting: str) -> str:
    """Return the setting, but no colours into a file."""
    return LogFormat.PLAIN.value if setting == LogFormat.RICH and not sys.stderr.isatty() else setting

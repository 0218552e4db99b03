"""`pspf dev`: a worker for development, on the embedded broker."""

import sys
from typing import Annotated

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.console import say
from pspf.cli.options import App

app = typer.Typer()
_EMBEDDED = "sqlite://"


@command(
    app,
    "pspf dev",
    "pspf dev myapp:stream",
    "pspf dev myapp:stream --only orders --log-level DEBUG",
    has_backend=False,
    has_json=False,
)
def dev(
    call: Invocation,
    app: App = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="TOPIC", help="Only handlers of this topic; repeat it.")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin",
            metavar="HOST:PORT",
            help="The dashboard's port, or off; default PSPF_ADMIN, else 127.0.0.1:8001 or the next that is free.",
            show_default=False,
        ),
    ] = None,
    accept_orphans: Annotated[
        bool,
        typer.Option("--accept-orphans", help="Start though handlers were renamed or removed; new ones start over."),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", metavar="LEVEL", help="Default PSPF_LOG_LEVEL, else INFO.", show_default=False),
    ] = None,
) -> int:
    """Run an app at your desk: embedded broker, a reload with every save, readable logs, the dashboard.

    The broker is the project's own file, .pspf/broker.db, also where the app or PSPF_BACKEND names a server:
    nothing done here reaches it. For a worker on another broker: pspf worker --reload.
    """
    from pspf.cli.commands.worker import Arguments, LogFormat, worker
    from pspf.settings import settings

    if settings.BACKEND or settings.valkey.IS_HOST_SET:
        say(f"dev uses the embedded broker, not the server that is set; emit to it with --backend {_EMBEDDED}")
    given = Arguments(
        app=app,
        only=only,
        reload=True,
        log_level=log_level,
        log_format=LogFormat.RICH if sys.stderr.isatty() else LogFormat.PLAIN,
        admin=admin,
        accept_orphans=accept_orphans,
    )
    return worker(Invocation(_EMBEDDED), given)

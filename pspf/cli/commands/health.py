"""`pspf health`: liveness and readiness of workers, read from the broker; exit code 0 or 10."""

import socket
from typing import TYPE_CHECKING, Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import say, write, write_json
from pspf.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pspf.observability.worker_status import ShownWorker

app = make_app(
    "Health of the workers of this machine: exit 0 or 10.",
    "pspf health live",
    "pspf health ready",
    "pspf health ready --worker HOST-4711-a1b2c3",
)

Worker = Annotated[
    str | None, typer.Option("--worker", metavar="ID", help="Only this worker; default: all of this host.")
]
Everywhere = Annotated[bool, typer.Option("--everywhere", help="The workers of all hosts.")]


@command(app, "pspf health live", "pspf health live --everywhere --json")
async def live(
    call: Invocation,
    worker: Worker = None,
    everywhere: Everywhere = False,
) -> ExitCode:
    """Whether a worker runs here: its supervisor shows itself in the broker every 3 s."""
    return await _check(call, worker, everywhere, asks_ready=False)


@command(app, "pspf health ready", "pspf health ready --worker HOST-4711-a1b2c3")
async def ready(
    call: Invocation,
    worker: Worker = None,
    everywhere: Everywhere = False,
) -> ExitCode:
    """Whether all processes of the workers here do their work; a slow handler is no reason against it."""
    return await _check(call, worker, everywhere, asks_ready=True)


async def _check(call: Invocation, worker: str | None, everywhere: bool, *, asks_ready: bool) -> ExitCode:
    from pspf.cli.services.roster import read_workers
    from pspf.errors import BackendCorrupt, BackendUnavailable, NotFound

    host = socket.gethostname()
    reasons: list[str] = []
    workers: list[ShownWorker] = []
    obstacle: str | None = None
    try:
        async with call.open_broker(names=False) as broker:
            workers, obstacle = await read_workers(broker), broker.find_obstacle()
    except (BackendUnavailable, BackendCorrupt, NotFound) as error:  # nothing is healthy there, and that is the answer
        reasons = [f"nobody can tell: {error}"]
    found = [
        each for each in workers if (each.worker == worker if worker is not None else everywhere or each.host == host)
    ]
    if not found and not reasons:
        reasons = [f"no worker {worker} is running" if worker else f"no worker is running on {host}"]
        if obstacle is not None:  # who can't write can't show itself either
            reasons = [f"nobody can tell: {obstacle}"]
    elif asks_ready and obstacle is not None:
        reasons = [f"no worker can commit: {obstacle}"]
    if asks_ready:
        for each in found:
            if not each.status.ready:
                why = each.status.why or (f"it is {each.status.state}",)
                reasons += [f"{each.worker}: {reason}" for reason in why]
    if call.as_json:
        write_json({"ok": not reasons, "workers": [each.worker for each in found], "why": reasons})
    else:
        for reason in reasons:
            say(reason)
        if not reasons:
            write(f"ok: {', '.join(each.worker for each in found)}")
    return ExitCode.CHECK_FAILED if reasons else ExitCode.OK

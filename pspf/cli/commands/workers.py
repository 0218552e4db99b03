"""`pspf workers`: the processes that run now, on all machines, through the broker."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pspf.cli.console import format_span, say, write, write_json, write_table
from pspf.cli.exit_codes import ExitCode, UsageError
from pspf.cli.options import AsJson, Backend, CliCommand, Verbose, examples, make_app
from pspf.cli.parsing import parse_span_ms

if TYPE_CHECKING:
    from pspf.observability.worker_status import ProcessStatus, ShownWorker

app = make_app(
    "Workers: what runs now, on all machines.",
    "pspf workers list",
    "pspf workers stacks HOST-4711-a1b2c3",
    "pspf workers stop HOST-4711-a1b2c3",
)

_TIMEOUT_MS: Final = 10_000
_LONG_MS: Final = 10_000
"""A batch that takes longer is told."""

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[WORKER]...", help="Workers, or processes of theirs, or hosts.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="All workers of this broker.")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="SPAN", help="How long to wait for the answers; default 10s.")
]


@app.command("list", cls=CliCommand, epilog=examples("pspf workers list", "pspf workers list --json"))
def list_workers(
    host: Annotated[str | None, typer.Option("--host", help="Only workers of this host.")] = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the running processes: host, pid, state, partitions, rate, last commit."""
    from pspf.cli import broker_session
    from pspf.cli.services.roster import read_workers, remarks_on

    async def work() -> None:
        async with broker_session.open_broker(backend) as broker:
            workers = [worker for worker in await read_workers(broker) if host in (None, worker.host)]
        if as_json:
            write_json({"workers": [process for worker in workers for process in worker.as_processes()]})
            return
        rows = [row for worker in workers for process in worker.processes for row in _rows(worker, process)]
        write_table(
            ("worker", "host", "pid", "state", "handler", "topic", "partitions", "processed", "rate", "committed"),
            rows,
            empty="no worker is running on this broker",
        )
        for line in (*remarks_on(workers), *_long_batches(workers)):
            say(line)

    broker_session.run(work())


def _rows(worker: "ShownWorker", process: "ProcessStatus") -> list[tuple[Any, ...]]:
    """Return a line for each subscription of a process, and one where it has none."""
    import time

    head = (worker.name_of(process), worker.host, process.pid, process.state)
    now_ms = time.time_ns() // 1_000_000
    rows: list[tuple[Any, ...]] = []
    for each in process.subscriptions:
        committed_ms = each.last_commit_ms
        ago = None if committed_ms is None else f"{format_span(max(0, now_ms - committed_ms))} ago"
        partitions = ",".join(map(str, each.partitions)) or "standing by"
        rows.append((*head, each.handler, each.topic, partitions, each.processed, each.rate, ago))
    return rows or [(*head, None, None, None, None, None, None)]


def _long_batches(workers: "list[ShownWorker]") -> list[str]:
    """Return a line for each batch that a handler has had for long, or that waits for long."""
    return [
        f"{worker.name_of(process)}: {each.handler} {each.doing} a batch of {each.records} of {each.topic},"
        f" partition {each.partition}, for {format_span(each.for_ms)}"
        for worker in workers
        for process in worker.processes
        for each in process.batches
        if each.for_ms >= _LONG_MS
    ]


@app.command(cls=CliCommand, epilog=examples("pspf workers ping", "pspf workers ping HOST-4711-a1b2c3 --timeout 3s"))
def ping(
    names: Names = None,
    timeout: Timeout = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Ask workers for a sign of life, all where none are named; exit 9 where one does not answer."""
    _command("ping", names, is_for_all=True, timeout=timeout, backend=backend, as_json=as_json)


@app.command(cls=CliCommand, epilog=examples("pspf workers stop HOST-4711-a1b2c3", "pspf workers stop --all"))
def stop(
    names: Names = None,
    is_for_all: All = False,
    timeout: Timeout = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Let workers finish what they have in hand, and end; of a worker's processes the last one ends the worker.

    A process that was stopped alone is started again by `pspf workers resume` of its worker, and by a reload.
    """
    _command("stop", names, is_for_all=is_for_all, timeout=timeout, backend=backend, as_json=as_json)


@app.command(cls=CliCommand, epilog=examples("pspf workers pause HOST-4711-a1b2c3", "pspf workers pause --all"))
def pause(
    names: Names = None,
    is_for_all: All = False,
    timeout: Timeout = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Let processes finish and start no others until `resume`; other workers take over what they held."""
    _command("pause", names, is_for_all=is_for_all, timeout=timeout, backend=backend, as_json=as_json)


@app.command(cls=CliCommand, epilog=examples("pspf workers resume HOST-4711-a1b2c3", "pspf workers resume --all"))
def resume(
    names: Names = None,
    is_for_all: All = False,
    timeout: Timeout = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Start processes that are paused or were stopped alone, and at once those that wait after a crash."""
    _command("resume", names, is_for_all=is_for_all, timeout=timeout, backend=backend, as_json=as_json)


@app.command(cls=CliCommand, epilog=examples("pspf workers stacks", "pspf workers stacks HOST-4711-a1b2c3"))
def stacks(
    names: Names = None,
    timeout: Timeout = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Print where every thread and every task is, also of a process whose event loop is blocked."""
    _command("stacks", names, is_for_all=True, timeout=timeout, backend=backend, as_json=as_json)


def _command(
    do: str, names: list[str] | None, *, is_for_all: bool, timeout: str | None, backend: str | None, as_json: bool
) -> None:
    from pspf.cli import broker_session
    from pspf.cli.services.roster import Target, ask, find_targets, read_workers

    if not names and not is_for_all:
        raise UsageError(f"pspf workers {do} WORKER..., or --all; `pspf workers list` names them")
    timeout_ms = _TIMEOUT_MS if timeout is None else parse_span_ms(timeout)

    async def work() -> dict[Target, dict[str, Any] | None]:
        async with broker_session.open_broker(backend) as broker:
            targets = find_targets(await read_workers(broker), names or [])
            return await ask(broker, targets, do, timeout_ms=timeout_ms)

    answers = broker_session.run(work())
    if not answers:
        say("no worker is running on this broker")
    if as_json:
        write_json({"answers": [{"worker": t.worker, "process": t.process, "answer": a} for t, a in answers.items()]})
    else:
        for target, answer in answers.items():
            _print_answer(target.name, answer, timeout_ms)
    if None in answers.values():
        raise typer.Exit(ExitCode.TIMED_OUT)
    if any("error" in (answer or {}) for answer in answers.values()):
        raise typer.Exit(ExitCode.FAILURE)


def _print_answer(name: str, answer: dict[str, Any] | None, timeout_ms: int) -> None:
    if answer is None:
        say(f"{name}: no answer within {format_span(timeout_ms)}")
    elif "stacks" in answer:
        for process, text in answer["stacks"].items():
            write(f"{process}\n{text}")
    elif "error" in answer:
        say(f"{name}: {answer['error']}")
    else:
        write(f"{name}: {answer.get('ok')} ({answer['answered_ms']} ms)")

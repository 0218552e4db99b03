"""`pspf workers`: running processes on all machines, listed and controlled through the broker."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import format_span, say, write, write_json, write_table
from pspf.cli.exit_codes import ExitCode, UsageError
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
"""A batch that takes longer gets a line."""

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[WORKER]...", help="Workers, or processes of theirs, or hosts.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="All workers of this broker.")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="SPAN", help="How long to wait for the answers; default 10s.")
]


@command(app, "pspf workers list", "pspf workers list --json", name="list")
async def list_workers(
    call: Invocation,
    host: Annotated[str | None, typer.Option("--host", help="Only workers of this host.")] = None,
) -> None:
    """List the running processes: host, pid, state, partitions, rate, last commit."""
    from pspf.cli.services.roster import describe_none, read_workers, remarks_on

    async with call.open_broker() as broker:
        workers = [worker for worker in await read_workers(broker) if host in (None, worker.host)]
        none = describe_none(broker)
    if call.as_json:
        write_json({"workers": [process for worker in workers for process in worker.as_processes()]})
        return
    rows = [row for worker in workers for process in worker.processes for row in _rows(worker, process)]
    write_table(
        ("worker", "host", "pid", "state", "handler", "topic", "partitions", "processed", "rate", "committed"),
        rows,
        empty=none,
    )
    for line in (*remarks_on(workers), *_long_batches(workers)):
        say(line)


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


@command(app, "pspf workers ping", "pspf workers ping HOST-4711-a1b2c3 --timeout 3s")
async def ping(
    call: Invocation,
    names: Names = None,
    timeout: Timeout = None,
) -> ExitCode:
    """Ping workers, all where none are named; exit 9 where one does not answer."""
    return await _send(call, "ping", names, timeout, is_for_all=True)


@command(app, "pspf workers stop HOST-4711-a1b2c3", "pspf workers stop --all")
async def stop(
    call: Invocation,
    names: Names = None,
    is_for_all: All = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Let workers finish their batches, and end; the last of a worker's processes ends the worker.

    A process that was stopped alone is started again by `pspf workers resume` of its worker, and by a reload.
    """
    return await _send(call, "stop", names, timeout, is_for_all=is_for_all)


@command(app, "pspf workers pause HOST-4711-a1b2c3", "pspf workers pause --all")
async def pause(
    call: Invocation,
    names: Names = None,
    is_for_all: All = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Let processes finish and start no others until `resume`; other workers take over their partitions."""
    return await _send(call, "pause", names, timeout, is_for_all=is_for_all)


@command(app, "pspf workers resume HOST-4711-a1b2c3", "pspf workers resume --all")
async def resume(
    call: Invocation,
    names: Names = None,
    is_for_all: All = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Start processes that are paused or were stopped alone, and at once those that wait after a crash."""
    return await _send(call, "resume", names, timeout, is_for_all=is_for_all)


@command(app, "pspf workers stacks", "pspf workers stacks HOST-4711-a1b2c3")
async def stacks(
    call: Invocation,
    names: Names = None,
    timeout: Timeout = None,
) -> ExitCode:
    """Print where every thread and every task is, also of a process whose event loop is blocked."""
    return await _send(call, "stacks", names, timeout, is_for_all=True)


async def _send(
    call: Invocation, do: str, names: list[str] | None, timeout: str | None, *, is_for_all: bool
) -> ExitCode:
    """Send a command to workers, and print their answers."""
    from pspf.cli.services.roster import ask, describe_none, find_targets, read_workers

    if not names and not is_for_all:
        raise UsageError(f"pspf workers {do} WORKER..., or --all; `pspf workers list` names them")
    timeout_ms = _TIMEOUT_MS if timeout is None else parse_span_ms(timeout)
    async with call.open_broker() as broker:
        targets = find_targets(await read_workers(broker), names or [])
        answers = await ask(broker, targets, do, timeout_ms=timeout_ms)
        none = describe_none(broker)
    if not answers:
        say(none)
    if call.as_json:
        write_json({"answers": [{"worker": t.worker, "process": t.process, "answer": a} for t, a in answers.items()]})
    else:
        for target, answer in answers.items():
            _print_answer(target.name, answer, timeout_ms)
    if None in answers.values():
        return ExitCode.TIMED_OUT
    return ExitCode.FAILURE if any("error" in (answer or {}) for answer in answers.values()) else ExitCode.OK


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

"""Entry point of `pspf`: runs the command, and turns errors into an exit code and at most six lines."""

import os
import sys
from io import StringIO
from typing import Final, NoReturn, TextIO, cast

import typer

from pspf.cli.arguments import hide_arguments
from pspf.cli.command import Group, make_app
from pspf.cli.commands import (
    broker,
    dev,
    dlq,
    emit,
    groups,
    health,
    info,
    init,
    pending,
    show,
    state,
    tail,
    top,
    topics,
    windows,
    worker,
    workers,
)
from pspf.cli.console import ClosedPipe, say
from pspf.cli.exit_codes import ExitCode, UsageError, code_of, explain
from pspf.cli.options import verbosity
from pspf.runtime.worker.leaving import bound_exit

app = make_app(
    "Python stream processing: run workers, emit events, look into topics, groups and state.",
    "pspf worker myapp:stream",
    'pspf emit orders \'{"order_id": 7, "amount": 12.5}\'',
    "pspf groups inspect",
    name="pspf",
)
for module in (worker, dev, emit, tail, show, top, info, init):
    app.registered_commands += module.app.registered_commands
app.add_typer(topics.app, name="topics")
app.add_typer(groups.app, name="groups")
app.add_typer(pending.app, name="pending")
app.add_typer(dlq.app, name="dlq")
app.add_typer(state.app, name="state")
app.add_typer(windows.app, name="windows")
app.add_typer(workers.app, name="workers")
app.add_typer(health.app, name="health")
app.add_typer(broker.app, name="broker")
app.add_typer(info.config, name="config")

_ParserError: Final = cast(type[typer.BadParameter], typer.BadParameter.__mro__[2])
"""What the argument parser raises for arguments that don't fit, whichever copy of click it brings."""
_OF_COMMANDS: Final = ("--backend", "--json", "--verbose", "-v")
"""Options of every command, which other tools take before it as well."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    _open_what_is_closed()
    if arguments is None:
        hide_arguments()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 must not turn an unusual key into a traceback.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # both are text files here
    try:
        _run(arguments)
    except SystemExit as ended:
        bound_exit(int(ended.code or 0))
        raise
    finally:
        _end_talk()


def _run(arguments: list[str] | None) -> NoReturn:
    try:
        code = app(arguments, prog_name="pspf", standalone_mode=False)
    except _ParserError as error:  # it would print what was typed as it is, a URL with its password too
        text = StringIO()
        error.show(text)
        say(text.getvalue().rstrip("\n"))
        at_group = error.ctx is not None and isinstance(error.ctx.command, Group)
        if at_group and getattr(error, "option_name", None) in _OF_COMMANDS:
            say("It is an option of the commands, and stands behind them: pspf topics list --json")
        sys.exit(error.exit_code)
    except ClosedPipe:
        _silence(sys.stdout)
        sys.exit(ExitCode.OK)
    except Exception as error:
        told = _blame_argument(error, sys.argv[1:] if arguments is None else arguments)
        say(explain(told, verbose=verbosity.on))
        sys.exit(code_of(told))
    except SystemExit:
        _flush_stdout()
        raise
    _flush_stdout()
    sys.exit(code or ExitCode.OK)


def _blame_argument(error: Exception, arguments: list[str]) -> Exception:
    """Return the usage error of an argument that is not UTF-8, where that could not be encoded; else `error`."""
    if isinstance(error, UnicodeEncodeError):
        for argument in arguments:
            if any("\udc80" <= character <= "\udcff" for character in argument):
                return UsageError(f"the argument {os.fsencode(argument)!r:.80} is not UTF-8: keys and names are text")
    return error


def _open_what_is_closed() -> None:
    """Put an empty file where a standard stream was closed (`>&-`): the next file to be opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _flush_stdout() -> None:
    if sys.stdout is None or sys.stdout.closed:  # an app's doing
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)


def _end_talk() -> None:
    """Drop what stderr does not take, which is no failure of the command."""
    if sys.stderr is None or sys.stderr.closed:  # an app's doing
        return
    try:
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Let the interpreter's own flush at exit end in nothing instead of in a complaint."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)

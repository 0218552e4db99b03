"""Exit codes, and errors as an exit code with at most six lines of text."""

import traceback
from enum import IntEnum
from typing import Final

from pspf.errors import (
    AppNotFound,
    BackendUnavailable,
    ConfigurationError,
    EmitIncomplete,
    EventRejected,
    NotFound,
    OrphanedCursors,
    PSPFError,
    Refused,
)

MAX_LINES: Final = 6
_MAX_LINE_LENGTH: Final = 400


class ExitCode(IntEnum):
    """What every command of `pspf` ends with."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    APP_NOT_LOADED = 3
    UNREACHABLE = 4
    NOT_PERMITTED = 5
    NOT_FOUND = 6
    REFUSED = 7
    PARTLY_DONE = 8
    TIMED_OUT = 9
    CHECK_FAILED = 10
    INTERRUPTED = 130


class UsageError(PSPFError):
    """The arguments don't fit together; nothing was done."""


class Interrupted(PSPFError):
    """Ctrl-C, as an ordinary exception: the argument parser has an exit code of its own for the original."""

    def __str__(self) -> str:
        return "interrupted"


_CODES: Final[tuple[tuple[type[BaseException], ExitCode], ...]] = (
    (AppNotFound, ExitCode.APP_NOT_LOADED),
    (UsageError, ExitCode.USAGE),
    (OrphanedCursors, ExitCode.REFUSED),
    (ConfigurationError, ExitCode.USAGE),
    (EventRejected, ExitCode.USAGE),
    (NotFound, ExitCode.NOT_FOUND),
    (Refused, ExitCode.REFUSED),
    (BackendUnavailable, ExitCode.UNREACHABLE),
    (EmitIncomplete, ExitCode.PARTLY_DONE),
    (PermissionError, ExitCode.NOT_PERMITTED),
    (TimeoutError, ExitCode.TIMED_OUT),
    (Interrupted, ExitCode.INTERRUPTED),
)
"""The first that fits counts."""


def code_of(error: BaseException) -> ExitCode:
    """Return the exit code for `error`; a broker that says `permission denied` is code 5, not 4."""
    if isinstance(error, BackendUnavailable) and isinstance(error.__cause__, PermissionError):
        return ExitCode.NOT_PERMITTED
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILURE)


def explain(error: BaseException, *, verbose: bool = False) -> str:
    """Return what to print for `error`: at most six lines, the whole traceback with `verbose`."""
    if verbose:
        return "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, Interrupted):
        return str(error)
    if isinstance(error, PSPFError):
        lines = f"error: {error}".splitlines()
    else:
        lines = [
            *f"error: {type(error).__name__}: {error}".splitlines()[: MAX_LINES - 1],
            "  -v shows where it comes from",
        ]
    return "\n".join(line[:_MAX_LINE_LENGTH] for line in lines[:MAX_LINES])

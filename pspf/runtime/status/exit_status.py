"""Exit status of a worker: how its processes ended, as one exit code and one error."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pspf.errors
from pspf.errors import BackendCorrupt, BackendGone, ConfigurationError, PSPFError
from pspf.runtime.app.plan import Totals
from pspf.runtime.status.reports import Ending

BURST_TIMED_OUT: Final = 9
STOPPED: Final = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How all processes ended: the exit code, what they did together, and an error that one of them reported."""

    code: int
    totals: Totals
    error: PSPFError | None

    @property
    def is_given_up(self) -> bool:
        """Whether the stop was cut short, by a second signal or by its deadline."""
        return self.code in STOPPED


def error_from(kind_name: str, message: str) -> PSPFError:
    """Return the error that another process ended with, so that this one ends with the same exit code."""
    kind = getattr(pspf.errors, kind_name, PSPFError)
    try:
        error = kind(message)
    except TypeError:  # an error with more than a message
        error = PSPFError(message)
    return error if isinstance(error, PSPFError) else PSPFError(message)


def is_lasting(error: PSPFError, *, may_be_mended: bool) -> bool:
    """Return whether a new process would end over the same error.

    Code and settings may be mended where a process has worked before, or somebody saves them again. A broker that is
    gone does not come back: a new process would make an empty one, or use a stranger's.
    """
    if isinstance(error, BackendGone):
        return True
    return isinstance(error, ConfigurationError | BackendCorrupt) and not may_be_mended


def judge_burst(returncode: int, ending: Ending | None, *, is_time_up: bool = False) -> int:
    """Return what a process of a burst counts as that ended without being asked to.

    A handler may end it, have it stopped, or put another program in its place: only its last words say that nothing is
    left to do, and a code of its own means something only with them. One whose time was up may not live to say them.
    """
    if is_time_up and returncode == BURST_TIMED_OUT:
        return returncode
    if returncode < 0 or (ending is not None and (ending.is_drained or ending.error is not None)):
        return returncode
    return 1 if ending is None or returncode in (0, *STOPPED) else returncode


def describe_end(returncode: int) -> str:
    """Return how a process ended, in words."""
    if returncode < 0:
        try:
            return f"was ended by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"was ended by signal {-returncode}"
    return f"ended with exit code {returncode}"


def choose_code(returncodes: Sequence[int]) -> int:
    """Return the exit code of all: 0, a code that has a meaning of its own, else 1."""
    failed = [code for code in returncodes if code != 0]
    for code in (BURST_TIMED_OUT, *STOPPED):
        if failed and all(other == code or other in STOPPED for other in failed) and code in failed:
            return code
    return 1 if failed else 0

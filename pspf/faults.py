"""Named crash points for fault tests. Nothing happens unless one is armed.

`PSPF_FAULT=point:n:action` arms the n-th passing of a point. Actions: `kill` (SIGKILL to this
process), `stop` (SIGSTOP, at the point itself), `raise`, `sleep` (5 s). The worker reads the setting and calls `arm`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from pspf.errors import ConfigurationError, PSPFError

POINTS: Final = (
    "lease.acquired",
    "read.sent",
    "read.reply",
    "decode",
    "handler.before",
    "handler.mid",
    "handler.after",
    "commit.built",
    "commit.sent",
    "commit.reply",
    "checkpoint",
    "renew",
    "release",
)


class InjectedFault(PSPFError):
    """What the action `raise` raises."""


def _raise() -> None:
    raise InjectedFault(f"injected at {_armed_point}")


def _stop() -> None:
    # To this thread: one that is sent to the process may reach another thread, and this one runs on until that wakes.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


_ACTIONS: Final[dict[str, Callable[[], None]]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": _stop,
    "raise": _raise,
    "sleep": lambda: time.sleep(5),
}

_armed_point: str | None = None
_passings_left = 0
_action: Callable[[], None] = _raise


def arm(spec: str | None) -> None:
    """Arm `point:n:action`; None disarms.

    Raises:
        ConfigurationError: The spec names no point or action.
    """
    global _armed_point, _passings_left, _action
    if not spec:
        _armed_point = None
        return
    point, _, rest = spec.partition(":")
    count, _, action = rest.partition(":")
    if point not in POINTS or not count.isdigit() or int(count) < 1 or action not in _ACTIONS:
        raise ConfigurationError(
            f"PSPF_FAULT {spec!r}: use point:n:action; points: {', '.join(POINTS)}; actions: {', '.join(_ACTIONS)}"
        )
    _armed_point, _passings_left, _action = point, int(count), _ACTIONS[action]


def is_armed(*points: str) -> bool:
    """Return whether one of `points` is armed, so that hot loops ask once and not per event."""
    return _armed_point in points


def reach(point: str) -> None:
    """Pass a point; acts at the n-th passing of the armed one."""
    global _passings_left
    if point != _armed_point:
        return
    _passings_left -= 1
    if _passings_left == 0:
        _action()

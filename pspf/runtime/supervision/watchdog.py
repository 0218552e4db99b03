"""Watchdog of worker processes: decides whether one makes progress. A slow handler does.

A silent event loop, a call of the broker without an answer, and a handler beyond its own time limit do not.
"""

from typing import Final

from pspf.observability.worker_status import OVERDUE
from pspf.runtime.status.reports import Pulse

_POLL_MS: Final = 5_000
"""How long a read may wait for records, and be none the worse for it."""
_BEAT_MS: Final = 1_000
"""How old a pulse may be before its age tells anything: one comes every second."""


def find_trouble(pulse: Pulse, *, pulse_age_ms: int, broker_answers_ms: int, stall_ms: int) -> str | None:
    """Return why a process makes no progress, None where it does.

    Args:
        pulse: Its last one.
        pulse_age_ms: The time since then; a process that is stopped, or stuck in C code, sends none.
        broker_answers_ms: For how long the broker has answered others without a failure; 0 while it doesn't.
            A broker that is down for all is waited for.
        stall_ms: The longest silence that is not a stall.
    """
    silent_ms = 0 if pulse.loop_silent_ms is None else pulse.loop_silent_ms + max(0, pulse_age_ms - _BEAT_MS)
    if silent_ms > stall_ms:
        return f"its event loop has been silent for {silent_ms / 1000:.1f} s"
    unanswered_ms = pulse.unanswered_ms + pulse_age_ms if pulse.unanswered_ms else 0
    if min(unanswered_ms, broker_answers_ms) > stall_ms + _POLL_MS:
        return f"the broker has not answered it for {unanswered_ms / 1000:.1f} s, but others"
    for busy in pulse.busy:
        if busy.state == OVERDUE and busy.for_ms + max(0, pulse_age_ms - _BEAT_MS) > stall_ms:
            return str(busy)
    return None

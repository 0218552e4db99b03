"""A timer as it is stored: a row by key and name, and an index entry by due time in one of two queues.

The row is a line of JSON and, behind it, the payload as it was given. The key of an index entry is the due
time, in 8 bytes that sort as the numbers do, and then the key of the row; its value says nothing.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.errors import StateUnreadable
from pspf.records import EntryKind, make_namespace, split_state_key

ROWS: Final = make_namespace(EntryKind.TIMERS, 0)
"""The namespace of the rows. The key of one is that of a value of `ctx.state`: record key, then name."""
CLOCK: Final = make_namespace(EntryKind.TIMERS, 1)
"""The queue of timers that wait for the broker's clock: those set with `after_ms`, and those to run again."""
EVENT: Final = make_namespace(EntryKind.TIMERS, 2)
"""The queue of timers that wait for the watermark."""
INDEXED: Final = b"1"
TIMER_HEADER: Final = "timer"
"""The header of a dead letter that has a timer's name."""

_ZERO_MS: Final = 1 << 63
_DUE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class TimerRow:
    """One timer. It is due at `due_ms` of its `queue`; `at_ms` is what it was set for, as `is_event_time` says.

    `attempts` are its runs that failed, the last one with `error`; `crashes` those that ended the process.
    """

    at_ms: int
    is_event_time: bool
    due_ms: int
    queue: int
    payload: bytes
    attempts: int = 0
    crashes: int = 0
    error: str = ""

    def encode(self) -> bytes:
        """Return it as it is stored."""
        head = {
            "at_ms": self.at_ms,
            "event": self.is_event_time,
            "due_ms": self.due_ms,
            "queue": "event" if self.queue == EVENT else "clock",
            "attempts": self.attempts,
            "crashes": self.crashes,
            "error": self.error,
        }
        return orjson.dumps(head) + b"\n" + self.payload

    @classmethod
    def decode(cls, stored: bytes, place: bytes) -> "TimerRow":
        """Return what `encode` gave.

        Raises:
            StateUnreadable: It is something else.
        """
        head, _, payload = stored.partition(b"\n")
        try:
            fields: dict[str, Any] = orjson.loads(head)
            return cls(
                at_ms=int(fields["at_ms"]),
                is_event_time=bool(fields["event"]),
                due_ms=int(fields["due_ms"]),
                queue=EVENT if fields["queue"] == "event" else CLOCK,
                payload=payload,
                attempts=int(fields["attempts"]),
                crashes=int(fields["crashes"]),
                error=str(fields["error"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StateUnreadable(
                f"the timer at {place!r:.80} is damaged ({type(error).__name__}: {error}): seek its cursor with"
                " --reset-state to start again, or restore the broker's data"
            ) from error

    def index(self, place: bytes) -> bytes:
        """Return the key of its index entry, as the row at `place`."""
        return (self.due_ms + _ZERO_MS).to_bytes(_DUE_BYTES, "big") + place


def due_of(index: bytes) -> int:
    """Return the due time that an index entry's key begins with."""
    return int.from_bytes(index[:_DUE_BYTES], "big") - _ZERO_MS


def place_of(index: bytes) -> bytes:
    """Return the key of the row that an index entry is about."""
    return index[_DUE_BYTES:]


def key_and_name(place: bytes) -> tuple[bytes, str]:
    """Return the record key and the name of the timer at `place`."""
    return split_state_key(place)

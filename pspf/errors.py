"""Exceptions of PSPF, grouped by what the caller has to do.

PSPFError
├── ConfigurationError          fix the code or the settings (is a ValueError)
│   ├── AppNotFound             the MODULE:OBJECT can't be loaded
│   ├── TopicMismatch           the topic was made with another number of partitions
│   ├── NotAvailable            this version does not have it
│   ├── OrphanedCursors         the app's group has cursors of handlers that the app lacks
│   └── StateUnavailable        the handler has no state here (is a RuntimeError)
├── EventRejected               fix the event (is a ValueError)
│   ├── SchemaError             the payload is not what the model asks for
│   └── TooManyEffects          one record did more than one commit may hold
├── NotFound                    no such topic, group or record
├── Refused                     ask for it expressly: it would destroy or disturb something
├── BackendUnavailable          wait, then call again
│   └── DiskFull                make space, then call again
├── BackendCorrupt              stop: the broker's data is damaged or not ours
│   └── BackendGone             stop: the broker's file was taken away, or is another version's by now
├── EmitUnknown                 it may be stored or not: emit again with the same event_id
├── EmitIncomplete              some of many are not stored: `ids` says which
├── StateUnreadable             reset what the handler remembers, or mend how it is read
├── StatusUnreadable            leave that worker out: another version wrote its status
├── CommitFenced                stop: another worker owns the cursor
│   └── CommitStale             reload: someone moved the cursor under its owner
├── HandlerTimeout              the handler took longer than its `timeout_ms`
├── HandlerCrashed              the handler ended its process `max_crashes` times
├── BatchError                  raised by a `list[Event]` handler to name the culprits
├── RetryLater                  raised by a handler to say when its record runs again
├── ContextClosed               the handler had ended when its context was used
└── NotSettled                  the app under a StreamTester is at work for too long (is a TimeoutError)
"""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

_MAX_TEXT: Final = 1_000
_LONGEST_RETRY_S: Final = 366 * 24 * 3_600


class PSPFError(Exception):
    """Root of all errors that PSPF raises on purpose."""


class ConfigurationError(PSPFError, ValueError):
    """The code or the settings ask for something that can't be."""


class AppNotFound(ConfigurationError):
    """The user's module or its Stream can't be loaded."""


class TopicMismatch(ConfigurationError):
    """A topic is used with another number of partitions than it was made with."""


class NotAvailable(ConfigurationError):
    """A documented feature that this version, or the broker, does not have."""


class OrphanedCursors(ConfigurationError):
    """A handler was renamed, removed or given another ordering: what it has done would be done again."""


class StateUnavailable(ConfigurationError, RuntimeError):
    """State was asked for where there is none."""


class EventRejected(PSPFError, ValueError):
    """An event can't be encoded, or is too large, too deep or not JSON."""


class SchemaError(EventRejected):
    """A payload does not fit its model; retrying can't help."""


class TooManyEffects(EventRejected):
    """One record's handler made more changes than one commit may hold; retrying can't help."""


class NotFound(PSPFError, LookupError):
    """A named topic, group, handler or record does not exist."""


class Refused(PSPFError):
    """An operator's wish would destroy or disturb something, and was not said to mean it; nothing was changed."""


class BackendUnavailable(PSPFError):
    """The broker can't be reached or refuses for the moment; the same call may work later."""


class DiskFull(BackendUnavailable):
    """The broker's disk is full; nothing of the call was stored."""


class BackendCorrupt(PSPFError):
    """The broker's data is damaged, was replaced, or is of a format this version can't read."""


class StateUnreadable(PSPFError):
    """What a handler remembers can't be read by it any more; it alone stops, until that is mended or reset."""


class StatusUnreadable(PSPFError, ValueError):
    """What another process shows of itself has a field of another type; the message names it."""


class BackendGone(BackendCorrupt):
    """The broker's file was deleted, moved, replaced or brought to a newer format while it was in use.

    Going on would write where no process reads; a restart would meet another broker.
    """


class EmitUnknown(PSPFError):
    """The emit's outcome is not known; emit it again with the same `event_id` to be sure."""


class _Unknown:
    """The id of an event whose outcome is not known."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


class EmitIncomplete(PSPFError):
    """Some of the events of one `emit_many` are not stored.

    `ids` has one entry per event, in order: its id, `None` (not stored) or `UNKNOWN`.
    """

    def __init__(self, message: str, ids: Sequence[object]) -> None:
        super().__init__(message)
        self.ids = list(ids)


class CommitFenced(PSPFError):
    """The lease behind a commit is another worker's by now; nothing was written."""


class CommitStale(CommitFenced):
    """The cursor moved since its owner read it; nothing was written, read it again."""


class HandlerTimeout(PSPFError, TimeoutError):
    """A handler did not end within its `timeout_ms`."""


class HandlerCrashed(PSPFError):
    """A record ended the process that handled it, alone, `max_crashes` times."""


class BatchError(PSPFError):
    """Names the records of a batch that failed: `BatchError({event.offset: error})`."""

    def __init__(self, errors: Mapping[str, BaseException] | Mapping[str | None, BaseException]) -> None:
        super().__init__(f"{len(errors)} of the batch failed")
        self.errors = dict(errors)


class RetryLater(PSPFError):
    """Lets a handler's record run again after `seconds`, or a `timedelta`, instead of after its policy's wait.

    It is an attempt as any failure: the last one that the policy allows makes a dead letter. The time is taken as it
    is, without jitter, whatever the policy's longest wait; what has passed already means at once.

    Raises:
        ConfigurationError: `seconds` is no number, or more than 366 days.
    """

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        given: object = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if isinstance(given, bool) or not isinstance(given, int | float) or not given <= _LONGEST_RETRY_S:
            raise ConfigurationError(f"RetryLater({seconds!r:.80}): give seconds, or a timedelta, of at most 366 days")
        self.wait_ms = math.ceil(given * 1000) if given > 0 else 0
        """How long to wait, in milliseconds."""
        super().__init__(reason or f"again in {self.wait_ms / 1000:g} s")


class ContextClosed(PSPFError):
    """A handler's context was used after the handler had ended, failed or timed out."""


class NotSettled(PSPFError, TimeoutError):
    """What was sent to an app under test is not done within the test's limit."""


def text_of(error: BaseException) -> str:
    """Return an error's message, as text that any store can hold, cut where it is long."""
    try:
        text = str(error)
    except BaseException as failure:  # the boundary of the user's own __str__: the record's failure is reported anyway
        text = f"no message: its __str__ raised {type(failure).__name__}"
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()

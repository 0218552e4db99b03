"""Timers that a call sets and cancels, buffered until its effects are taken over."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pspf.errors import ConfigurationError, EventRejected
from pspf.events.state_values import encode_value
from pspf.events.timestamps import ms_of

if TYPE_CHECKING:
    from pspf.context.context import Context

LONGEST_NAME_BYTES: Final = 512
_LATEST_MS: Final = 253_402_300_799_999  # the end of the year 9999
_MS: Final = timedelta(milliseconds=1)
_ROW_BYTES: Final = 128
"""What a timer takes beside its payload, about."""


class TimerRequest(NamedTuple):
    """A timer that a call sets: `at_ms` of event time, or of the broker's clock."""

    at_ms: int
    is_event_time: bool
    payload: bytes


TimerRequests = dict[str, TimerRequest | None]
"""By name; None cancels."""


class TimerClock(Protocol):
    """The broker's clock, as timers go by it."""

    def now_ms(self) -> int: ...


def set_timer(
    context: "Context", name: str, at_ms: int | datetime | None, after_ms: float | timedelta | None, payload: object
) -> None:
    """Note that a call sets a timer of its key. Errors as in `Context.timer`."""
    clock = _check(context, name)
    if (at_ms is None) == (after_ms is None):
        raise ConfigurationError(
            f"timer {name!r}: pass at_ms= (event time) or after_ms= (the broker's clock), one of them"
        )
    encoded = _encode(name, payload)
    if after_ms is None:
        request = TimerRequest(_as_time_ms(name, at_ms), True, encoded)
    else:
        request = TimerRequest(clock.now_ms() + _as_delay_ms(name, after_ms), False, encoded)
    context.count(len(encoded) + len(name) + _ROW_BYTES)
    _note(context, name, request)


def cancel_timer(context: "Context", name: str) -> None:
    """Note that a call cancels a timer of its key. Errors as in `Context.cancel_timer`."""
    _check(context, name)
    context.count(len(name))
    _note(context, name, None)


def _note(context: "Context", name: str, request: TimerRequest | None) -> None:
    if context.timers is None:
        context.timers = {}
    context.timers[name] = request


def _encode(name: str, payload: object) -> bytes:
    try:
        return encode_value(name, payload)
    except EventRejected as error:
        raise EventRejected(f"the payload of timer {name!r} can't be stored: {error}") from error


def _check(context: "Context", name: object) -> TimerClock:
    """Return the clock of timers, where the call may set some and `name` names one."""
    context.check_open()
    clock = context.scope.timers
    if clock is None:
        raise ConfigurationError(f"timer {name!r:.80}: {context.scope.no_timers}")
    if context.record.raw_key is None:
        raise ConfigurationError(
            f"timer {name!r:.80}: {context.record.topic} {context.record.id} has no key, and a timer belongs to a key:"
            " emit with key=..."
        )
    if not isinstance(name, str) or not name:
        raise EventRejected(f"a timer is named by text, not {name!r:.80}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise EventRejected(f"timer name {name!r:.80} can't be written as UTF-8") from error
    if size > LONGEST_NAME_BYTES:
        raise EventRejected(f"timer name {name!r:.80} has {size} bytes; at most {LONGEST_NAME_BYTES} are taken")
    return clock


def _as_time_ms(name: str, at_ms: object) -> int:
    if isinstance(at_ms, datetime):
        return ms_of(at_ms)
    if type(at_ms) is not int or not -_LATEST_MS <= at_ms <= _LATEST_MS:
        raise EventRejected(
            f"timer {name!r}: at_ms={at_ms!r:.80}; give whole milliseconds since the epoch, or a datetime, up to the"
            " year 9999"
        )
    return at_ms


def _as_delay_ms(name: str, after_ms: object) -> int:
    found = after_ms / _MS if isinstance(after_ms, timedelta) else after_ms
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not 0 <= found <= _LATEST_MS // 2:  # type: ignore[operator]  # it is a number by then
        raise EventRejected(f"timer {name!r}: after_ms={after_ms!r:.80}; give milliseconds, or a timedelta, 0 or more")
    return int(found)  # type: ignore[call-overload, no-any-return]  # as above

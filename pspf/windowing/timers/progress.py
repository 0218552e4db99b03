"""Stored progress of a handler with timers: its small part of every commit."""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError, StateUnreadable

_VERSION: Final = 1
KIND: Final = "timers"


@dataclass(frozen=True, slots=True)
class TimerProgress:
    """How far event time is, how many timers are to run again, and whether all were fired as at the input's end."""

    watermark_ms: int
    retrying: int
    is_finished: bool


def describe(watermark_ms: int, *, retrying: int, has_more: bool, is_finished: bool) -> dict[str, Any]:
    """Return progress as JSON. `has_more`: a timer is due, or is to run again."""
    return {
        "version": _VERSION,
        "operator": KIND,
        "watermark_ms": watermark_ms,
        "retrying": retrying,
        "has_more": has_more,
        "is_finished": is_finished,
    }


def is_of_timers(stored: bytes) -> bool:
    """Return whether stored progress is a handler's with timers; what can't be read is none."""
    try:
        return bool(orjson.loads(stored).get("operator") == KIND)
    except (orjson.JSONDecodeError, AttributeError):
        return False


def check_stored(stored: bytes, handler: str) -> None:
    """Raise ConfigurationError where stored progress is a windowed handler's, or of a newer version.

    What can't be read at all is passed over: it is refused where it is opened.
    """
    try:
        tree = orjson.loads(stored)
        kind, version = tree.get("operator"), tree.get("version")
    except (orjson.JSONDecodeError, AttributeError):
        return
    if kind != KIND:
        raise ConfigurationError(
            f"handler {handler} has timers, and had windows or a key= when it began: give it another name=, or seek"
            " with --reset-state"
        )
    if version != _VERSION:
        raise ConfigurationError(f"timers of {handler} are of version {version}; use a newer PSPF")


def read_progress(stored: bytes, handler: str) -> TimerProgress:
    """Return what was stored.

    Raises:
        StateUnreadable: It is damaged, or something else.
    """
    try:
        check_stored(stored, handler)
        tree = orjson.loads(stored)
        return TimerProgress(int(tree["watermark_ms"]), int(tree["retrying"]), bool(tree["is_finished"]))
    except ConfigurationError as error:  # since this worker has begun: another version of the app is at work
        raise StateUnreadable(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateUnreadable(
            f"what handler {handler} remembers of its timers can't be read ({type(error).__name__}: {error}): seek with"
            " --reset-state to start again, or restore the broker's data"
        ) from error

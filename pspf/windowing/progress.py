"""What an operator remembers beside the states of its windows; rides in every commit, small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError, StateUnreadable
from pspf.windowing.definitions import Emission, SessionWindow, SlidingWindow, TumblingWindow, Windowing
from pspf.windowing.event_time import Key
from pspf.windowing.folds import HandlerFold, ReadyFold
from pspf.windowing.spans import BEGINNING

_VERSION: Final = 1
_SESSION_VERSION: Final = 2
"""Of sessions, which have rows of their own since; who knows version 1 alone would not find them."""
_WORDS: Final = {"window": "window", "slice_ms": "slice_ms", "fold": "aggregation", "shape": "aggregation"}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an operator is, as of a commit.

    `closing` is the window that is being closed and the last key of it that is done. `withheld` are
    windows that stay open for one key. `held` is the watermark at the position of each record, by
    offset, that is not done although it was read. `has_more`: what is due at this watermark is not all
    emitted yet. `is_finished`: all that was open was closed as at the end of the input, and no record
    has come since. `source_times` are those of the source partitions that were heard of, behind a hop.

    `closed_ms` says which windows are closed, whatever the lateness was since: spans by their start, sessions
    by their last record, up to it. `gone_ms` says so of those that left the state where none closes.
    `due_after_ms` (None: none closes) and `emission` are the rules that it was written under.
    """

    watermark_ms: int = BEGINNING
    frontier_ms: int = BEGINNING
    closed_ms: int = BEGINNING
    gone_ms: int = BEGINNING
    due_after_ms: int | None = None
    emission: Emission | None = None
    closing: tuple[int, Key] | None = None
    withheld: Sequence[tuple[int, Key]] = ()
    held: Mapping[int, int] = field(default_factory=dict)
    has_more: bool = False
    is_finished: bool = False
    source_times: Mapping[int, int] = field(default_factory=dict)

    def encode(self, described: Mapping[str, Any]) -> bytes:
        """Return it as stored, with what `describe` says of the windows."""
        return orjson.dumps(
            {
                "version": _SESSION_VERSION if described["window"]["kind"] == "session" else _VERSION,
                **described,
                "watermark_ms": self.watermark_ms,
                "frontier_ms": self.frontier_ms,
                "closed_ms": self.closed_ms,
                "closing": self.closing,
                "withheld": self.withheld,
                "held": {str(offset): watermark_ms for offset, watermark_ms in self.held.items()},
                "has_more": self.has_more,
                "is_finished": self.is_finished,
                "source_times": {str(source): time_ms for source, time_ms in self.source_times.items()},
            }
        )


@dataclass(frozen=True, slots=True)
class Completeness:
    """What anybody may know of an operator, with `Progress.has_more` and `is_finished`."""

    has_more: bool
    is_finished: bool


def read_standing(stored: bytes) -> Completeness:
    """Return how far an operator of whatever windows is, from what it stored; its owner says so where it is damaged."""
    try:
        tree = orjson.loads(stored)
        return Completeness(tree.get("has_more", False), tree.get("is_finished", False))
    except (orjson.JSONDecodeError, AttributeError):
        return Completeness(has_more=True, is_finished=False)


def describe(windowing: Windowing, fold: ReadyFold | HandlerFold) -> dict[str, Any]:
    """Return what has to stay the same for stored states to make sense, and what a reader needs to know."""
    window = windowing.window
    sizes: dict[str, Any]
    match window:
        case TumblingWindow():
            sizes = {"kind": "tumbling", "size_ms": window.size_ms}
        case SlidingWindow():
            sizes = {"kind": "sliding", "size_ms": window.size_ms, "slide_ms": window.slide_ms}
        case SessionWindow():
            sizes = {"kind": "session", "gap_ms": window.gap_ms}
    return {
        "window": sizes,
        "slice_ms": window.slice_ms if isinstance(window, SlidingWindow) and windowing.is_sliced else None,
        "fold": fold.name,
        "shape": fold.shape,
    }


def rules_of(windowing: Windowing) -> dict[str, Any]:
    """Return by what rules windows close, leave the state and are emitted: those may change from version to version."""
    return {
        "closes_after_ms": windowing.due_after_ms if windowing.closes else None,
        "drops_after_ms": None if windowing.closes else windowing.due_after_ms + windowing.retention_ms,
        "emission": windowing.emit,
    }


def check_same(stored: bytes, described: Mapping[str, Any], name: str) -> None:
    """Raise ConfigurationError where what is stored is of other windows than the handler has now.

    What can't be read at all is passed over: it says so where it is opened.
    """
    try:
        tree = orjson.loads(stored)
        version = tree["version"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return
    if version not in (_VERSION, _SESSION_VERSION):
        raise ConfigurationError(f"windows of {name} are of version {version}; use a newer PSPF")
    if "window" not in tree:
        raise ConfigurationError(
            f"handler {name} had a key= that sent its records on, and has none now: give it another name=,"
            " or seek with --reset-state"
        )
    for what, now in described.items():
        before = tree.get(what, now)
        if before != now:
            raise ConfigurationError(
                f"handler {name} has windows in the broker whose {_WORDS[what]} is {_text_of(before)}, and"
                f" {_text_of(now)} in the code: give the new ones another name=, or seek with --reset-state"
            )


def check_hop(stored: bytes, name: str) -> None:
    """Raise ConfigurationError where a handler that sends its records on has counted them where they are before."""
    try:
        has_windows = "window" in orjson.loads(stored)
    except (orjson.JSONDecodeError, TypeError):
        return
    if has_windows:
        raise ConfigurationError(
            f"handler {name} has a key= that sends its records on to their key's partition, and had none when it began:"
            " give it another name=, or seek with --reset-state"
        )


def _text_of(value: Any) -> str:
    return orjson.dumps(value).decode()[:200]


def decode(stored: bytes, described: Mapping[str, Any], name: str) -> Progress:
    """Return what was stored.

    Raises:
        ConfigurationError: It is of a newer version, or the handler has other windows now.
        StateUnreadable: It is damaged.
    """
    check_same(stored, described, name)
    try:
        return _decode(orjson.loads(stored))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StateUnreadable(
            f"what handler {name} remembers of its windows can't be read ({type(error).__name__}: {error}): seek with"
            " --reset-state to start anew, or restore the broker's data"
        ) from error


def _decode(tree: Mapping[str, Any]) -> Progress:
    closing = tree["closing"]
    watermark_ms, frontier_ms = int(tree["watermark_ms"]), int(tree["frontier_ms"])
    due_after_ms = tree.get("closes_after_ms", tree.get("due_after_ms"))
    closed_ms = tree.get("closed_ms")
    if closed_ms is None:  # it was written before windows told it
        is_known = due_after_ms is not None and frontier_ms > BEGINNING
        closed_ms = frontier_ms - int(due_after_ms or 0) if is_known else BEGINNING
    drops_after_ms = tree.get("drops_after_ms")
    has_gone = drops_after_ms is not None and watermark_ms > BEGINNING
    return Progress(
        watermark_ms=watermark_ms,
        frontier_ms=frontier_ms,
        closed_ms=int(closed_ms),
        gone_ms=watermark_ms - int(drops_after_ms or 0) if has_gone else BEGINNING,
        due_after_ms=due_after_ms,
        emission=tree.get("emission", "updates"),  # of an older version: nothing is unsent
        closing=None if closing is None else (closing[0], closing[1]),
        withheld=[(int(start), key) for start, key in tree["withheld"]],
        held={int(offset): int(at_ms) for offset, at_ms in tree["held"].items()},
        has_more=tree.get("has_more", False),
        is_finished=tree.get("is_finished", False),
        source_times={int(source): int(time_ms) for source, time_ms in tree.get("source_times", {}).items()},
    )

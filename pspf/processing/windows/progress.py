"""What an operator remembers beside the states of its windows; rides in every commit, small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from pspf.errors import ConfigurationError
from pspf.processing.windows.place import Key
from pspf.processing.windows.spans import BEGINNING
from pspf.windows import SessionWindow, SlidingWindow, TumblingWindow, Windowing

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an operator is, as of a commit.

    `closing` is the window that is being closed and the last key of it that is done. `withheld` are
    windows that stay open for one key. `held` is the watermark at the position of each record, by
    offset, that is not done although it was read. `has_more`: what is due at this watermark is not all
    emitted yet. `is_finished`: all that was open was closed as at the end of the input, and no record
    has come since. `source_times` are those of the source partitions that were heard of, behind a hop.
    """

    watermark_ms: int = BEGINNING
    frontier_ms: int = BEGINNING
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
                "version": _VERSION,
                **described,
                "watermark_ms": self.watermark_ms,
                "frontier_ms": self.frontier_ms,
                "closing": self.closing,
                "withheld": self.withheld,
                "held": {str(offset): watermark_ms for offset, watermark_ms in self.held.items()},
                "has_more": self.has_more,
                "is_finished": self.is_finished,
                "source_times": {str(source): time_ms for source, time_ms in self.source_times.items()},
            }
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What anybody may know of an operator, with `Progress.has_more` and `is_finished`."""

    has_more: bool
    is_finished: bool


def read_standing(stored: bytes) -> Standing:
    """Return how far an operator of whatever windows is, from what it stored."""
    tree = orjson.loads(stored)
    return Standing(tree.get("has_more", False), tree.get("is_finished", False))


def describe(windowing: Windowing, fold_name: str) -> dict[str, Any]:
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
        "fold": fold_name,
    }


def decode(stored: bytes, described: Mapping[str, Any], name: str) -> Progress:
    """Return what was stored.

    Raises:
        ConfigurationError: It is of a newer version, or the handler has other windows now.
    """
    tree = orjson.loads(stored)
    if tree["version"] != _VERSION:
        raise ConfigurationError(f"windows of {name} are of version {tree['version']}; use a newer PSPF")
    before = {key: tree[key] for key in described}
    if before != dict(described):
        raise ConfigurationError(
            f"handler {name} has windows {before} in the broker, and {dict(described)} in the code:"
            " give the new ones another name=, or seek with --reset-state"
        )
    closing = tree["closing"]
    return Progress(
        watermark_ms=tree["watermark_ms"],
        frontier_ms=tree["frontier_ms"],
        closing=None if closing is None else (closing[0], closing[1]),
        withheld=[(start, key) for start, key in tree["withheld"]],
        held={int(offset): watermark_ms for offset, watermark_ms in tree["held"].items()},
        has_more=tree.get("has_more", False),
        is_finished=tree.get("is_finished", False),
        source_times={int(source): time_ms for source, time_ms in tree.get("source_times", {}).items()},
    )

"""Stored progress of an operator: its small part of every commit, beside the entries.

An operator's host has a part of it (`HostProgress`), and so has the operator (`Progress`, of windows). Both are
fields of one JSON object, with the description that has to stay the same for the entries to make sense.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from pspf.errors import ConfigurationError, StateUnreadable
from pspf.windowing.definitions import Emission, Windowing
from pspf.windowing.event_time import Key
from pspf.windowing.folds import make_fold
from pspf.windowing.shuffle import Source
from pspf.windowing.spans import BEGINNING

T = TypeVar("T")

SHUFFLE_KIND: Final = "repartition"
_VERSIONS: Final = (1, 2)
"""Sessions have rows of their own since version 2; what knows version 1 alone would not find them."""
_WORDS: Final = {"slice_ms": "slice_ms", "fold": "aggregation", "shape": "aggregation"}


@dataclass(frozen=True, slots=True)
class HostProgress:
    """The position of an operator's host in time, as of a commit.

    `held` is the watermark at the position of each record, by offset, that was read and is not done. `has_more`:
    what is due at this watermark is not all emitted yet. `is_finished`: all that was open was closed as at the end
    of the input, and no record has come since. `source_times` are those of the source partitions of a shuffle.
    """

    watermark_ms: int = BEGINNING
    held: Mapping[int, int] = field(default_factory=dict)
    has_more: bool = False
    is_finished: bool = False
    source_times: Mapping[Source, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return its fields as they are stored."""
        return {
            "watermark_ms": self.watermark_ms,
            "held": {str(offset): watermark_ms for offset, watermark_ms in self.held.items()},
            "has_more": self.has_more,
            "is_finished": self.is_finished,
            "source_times": _as_tree(self.source_times),
        }

    @classmethod
    def read(cls, tree: Mapping[str, Any], topic: str) -> "HostProgress":
        """Return what was stored; errors as `read_part` expects them.

        Older versions stored the times of sources by partition alone: those of the only `topic`.
        """
        return cls(
            watermark_ms=int(tree["watermark_ms"]),
            held={int(offset): int(at_ms) for offset, at_ms in tree.get("held", {}).items()},
            has_more=tree.get("has_more", False),
            is_finished=tree.get("is_finished", False),
            source_times=_read_times(tree.get("source_times", {}), topic),
        )


def _as_tree(source_times: Mapping[Source, int]) -> dict[str, dict[str, int]]:
    tree: dict[str, dict[str, int]] = {}
    for (topic, partition), time_ms in source_times.items():
        tree.setdefault(topic, {})[str(partition)] = time_ms
    return tree


def _read_times(tree: Mapping[str, Any], only_topic: str) -> dict[Source, int]:
    times: dict[Source, int] = {}
    for name, stored in tree.items():
        if isinstance(stored, int):
            times[only_topic, int(name)] = stored
        else:
            times.update({(name, int(partition)): int(time_ms) for partition, time_ms in stored.items()})
    return times


@dataclass(frozen=True, slots=True)
class Progress:
    """Which windows are closed, as of a commit.

    `closing` is the window that is being closed and the last key of it that is done. `withheld` are windows that
    stay open for one key. `closed_ms` says which windows are closed, whatever the lateness was since: spans by their
    start, sessions by their last record, up to it. `gone_ms` says so of those that left the state where none closes.
    `due_after_ms` (None: none closes) and `emission` are the rules that it was written under.
    """

    frontier_ms: int = BEGINNING
    closed_ms: int = BEGINNING
    gone_ms: int = BEGINNING
    due_after_ms: int | None = None
    emission: Emission | None = None
    closing: tuple[int, Key] | None = None
    withheld: Sequence[tuple[int, Key]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return its fields as they are stored; those of the rules are the definition's (`rules_of`)."""
        return {
            "frontier_ms": self.frontier_ms,
            "closed_ms": self.closed_ms,
            "closing": self.closing,
            "withheld": self.withheld,
        }

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> "Progress":
        """Return what was stored; errors as `read_part` expects them."""
        closing = tree["closing"]
        watermark_ms, frontier_ms = int(tree["watermark_ms"]), int(tree["frontier_ms"])
        due_after_ms = read_due_after_ms(tree)
        closed_ms = tree.get("closed_ms")
        if closed_ms is None:  # written by a version that did not store it
            is_known = due_after_ms is not None and frontier_ms > BEGINNING
            closed_ms = frontier_ms - int(due_after_ms or 0) if is_known else BEGINNING
        drops_after_ms = tree.get("drops_after_ms")
        has_gone = drops_after_ms is not None and watermark_ms > BEGINNING
        return cls(
            frontier_ms=frontier_ms,
            closed_ms=int(closed_ms),
            gone_ms=watermark_ms - int(drops_after_ms or 0) if has_gone else BEGINNING,
            due_after_ms=due_after_ms,
            emission=tree.get("emission", "updates"),  # of an older version: nothing is unsent
            closing=None if closing is None else (closing[0], closing[1]),
            withheld=[(int(start), key) for start, key in tree["withheld"]],
        )


def read_due_after_ms(tree: Mapping[str, Any]) -> int | None:
    """Return by which lateness windows closed when progress was stored; None: none closed."""
    found: int | None = tree.get("closes_after_ms", tree.get("due_after_ms"))
    return found


@dataclass(frozen=True, slots=True)
class Completeness:
    """What anybody may know of an operator: `HostProgress.has_more` and `is_finished`."""

    has_more: bool
    is_finished: bool


def read_standing(stored: bytes) -> Completeness:
    """Return how far any operator is, from what it stored; its owner says so where it is damaged."""
    try:
        tree = orjson.loads(stored)
        return Completeness(tree.get("has_more", False), tree.get("is_finished", False))
    except (orjson.JSONDecodeError, AttributeError):
        return Completeness(has_more=True, is_finished=False)


def describe(windowing: Windowing) -> dict[str, Any]:
    """Return what has to stay the same for stored states to make sense, and what a reader needs to know."""
    fold = make_fold(windowing)
    return {
        "window": {"kind": windowing.kind, **windowing.window.sizes},
        "slice_ms": windowing.slice_ms,
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
    """Raise ConfigurationError where stored progress is of another operator than the handler's.

    What can't be read at all is passed over: it is refused where it is opened.
    """
    try:
        tree = orjson.loads(stored)
        version = tree["version"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return
    if version not in _VERSIONS:
        raise ConfigurationError(f"windows of {name} are of version {version}; use a newer PSPF")
    if "kind" in tree:
        raise ConfigurationError(
            f"handler {name} had a key= that sent its records on, and has none now: give it another name=,"
            " or seek with --reset-state"
        )
    for what, now in described.items():
        before = tree.get(what)
        if before != now and (what in tree or what not in _WORDS):
            raise ConfigurationError(
                f"handler {name} has windows in the broker whose {_WORDS.get(what, what)} is {_text_of(before)}, and"
                f" {_text_of(now)} in the code: give the new ones another name=, or seek with --reset-state"
            )


def check_shuffled(stored: bytes, name: str) -> None:
    """Raise ConfigurationError where a handler that sends its records on has counted them where they are before."""
    try:
        tree = orjson.loads(stored)
        is_counted = "version" in tree and "kind" not in tree
    except (orjson.JSONDecodeError, TypeError):
        return
    if is_counted:
        raise ConfigurationError(
            f"handler {name} has a key= that sends its records on to their key's partition, and had none when it began:"
            " give it another name=, or seek with --reset-state"
        )


def _text_of(value: Any) -> str:
    return orjson.dumps(value).decode()[:200]


def read_part(name: str, read: Callable[[], T]) -> T:
    """Return what `read` makes of stored progress.

    Raises:
        StateUnreadable: It is damaged.
    """
    try:
        return read()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StateUnreadable(
            f"what handler {name} remembers of its windows can't be read ({type(error).__name__}: {error}): seek with"
            " --reset-state to start again, or restore the broker's data"
        ) from error

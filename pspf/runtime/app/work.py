"""Work of a burst, as values: the cursors of an app, and the order in which its windows are finished."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pspf.subscription import repartition_topic


@dataclass(frozen=True, slots=True)
class CursorName:
    """All partitions' cursors of one handler (ordered mode) or, with `handler` None, of one group (shared mode)."""

    topic: str
    group: str
    handler: str | None

    @property
    def behind_hop(self) -> "CursorName | None":
        """Those behind the hop that a windowed handler has where its topic has several partitions, perhaps."""
        if self.handler is None:
            return None
        return CursorName(repartition_topic(self.group, self.handler), self.group, self.handler)


@dataclass(frozen=True, slots=True)
class OperatorCursors:
    """The cursors of a windowed handler, or of one with timers, and the topic that its results go to.

    `to` is None where they stay; with `emits_anywhere` they may go to any topic.
    """

    cursors: CursorName
    to: str | None
    emits_anywhere: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What a burst waits for: all cursors of the app, and of its windowed handlers, from upstream to downstream.

    Those of one level may be finished together.
    """

    cursors: tuple[CursorName, ...]
    levels: tuple[tuple[CursorName, ...], ...] = ()

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the work of a decoded line."""
        return cls(
            tuple(CursorName(**each) for each in fields["cursors"]),
            tuple(tuple(CursorName(**each) for each in level) for level in fields["levels"]),
        )


def order_operators(
    operators: Sequence[OperatorCursors], others: Collection[str]
) -> tuple[tuple[CursorName, ...], ...]:
    """Return windowed handlers in levels: each comes after those whose results it gets.

    What a handler without windows emits is not known. So where one of `others`, their topics, gets results,
    all windowed handlers that are declared later are taken to be downstream. In a circle the first declared
    one begins.
    """
    indices = range(len(operators))
    upstream: list[set[int]] = [
        {i for i in indices if i != j and operators[i].to == operators[j].cursors.topic} for j in indices
    ]
    for j in indices:
        for i in range(j):
            if (operators[i].emits_anywhere or operators[i].to in others) and j not in _reach_up(i, upstream):
                upstream[j].add(i)
    levels: list[tuple[CursorName, ...]] = []
    left = list(indices)
    while left:
        level = [j for j in left if not upstream[j].intersection(left)] or left[:1]
        levels.append(tuple(operators[j].cursors for j in level))
        left = [j for j in left if j not in level]
    return tuple(levels)


def _reach_up(of: int, upstream: Sequence[set[int]]) -> set[int]:
    """Return all cursors upstream of one."""
    found: set[int] = set()
    new = set(upstream[of])
    while new:
        found |= new
        new = {above for each in new for above in upstream[each]} - found
    return found

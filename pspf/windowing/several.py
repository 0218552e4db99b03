"""Several: named aggregations side by side, folded in one pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from pspf.errors import ConfigurationError
from pspf.windowing.aggregation import MISSING, Aggregation, FoldFunction


class Several(Aggregation):
    """Named aggregations side by side; the value is an object of theirs."""

    def __init__(self, parts: Mapping[str, Aggregation]) -> None:
        if not parts or not all(isinstance(part, Aggregation) for part in parts.values()):
            raise ConfigurationError(f"aggregations by name, as in {{'bids': Count()}}, not {parts!r:.120}")
        self.parts = dict(parts)
        self._in_order = tuple(self.parts.values())
        self.name = "-".join(self.parts)
        self.changes_states = any(part.changes_states for part in self._in_order)
        self._fold_alone = not self.changes_states

    @property
    def fields(self) -> Sequence[str]:
        return [name for part in self._in_order for name in part.fields]

    @property
    def shape(self) -> Any:
        return [[name, part.shape] for name, part in self.parts.items()]

    def take(self, event: Any, offset: int) -> Any:
        return [part.take(event, offset) for part in self._in_order]

    def start(self) -> Any:
        return tuple([part.start() for part in self._in_order])

    def add(self, state: Any, value: Any) -> Any:
        return tuple(
            [
                old if new is MISSING else part.add(old, new)
                for part, old, new in zip(self._in_order, state, value, strict=True)
            ]
        )

    def make_fold(self) -> FoldFunction:
        if self._fold_alone:
            return self._make_parallel_fold()
        takes, adds = [part.take for part in self._in_order], [part.add for part in self._in_order]
        start = self.start

        def fold(event: Any, offset: int, state: Any) -> Any:
            values = [take(event, offset) for take in takes]  # all of them, before any state changes
            olds = start() if state is None else state
            return tuple(
                [
                    old if value is MISSING else add(old, value)
                    for add, old, value in zip(adds, olds, values, strict=False)  # strict costs a lookup
                ]
            )

        return fold

    def _make_parallel_fold(self) -> FoldFunction:
        """Return a fold of each part alone: where one refuses an event, the new states of the others are dropped."""
        folds = [part.make_fold() for part in self._in_order]
        nothing = (None,) * len(folds)

        def fold(event: Any, offset: int, state: Any) -> Any:
            olds = nothing if state is None else state
            return tuple([add(event, offset, old) for add, old in zip(folds, olds, strict=False)])

        return fold

    def merge(self, one: Any, other: Any) -> Any:
        return tuple([part.merge(a, b) for part, a, b in zip(self._in_order, one, other, strict=True)])

    def result(self, state: Any) -> Any:
        return {name: part.result(each) for (name, part), each in zip(self.parts.items(), state, strict=True)}

    def dump(self, state: Any) -> Any:
        return [part.dump(each) for part, each in zip(self._in_order, state, strict=True)]

    def load(self, tree: Any) -> Any:
        return tuple([part.load(each) for part, each in zip(self._in_order, tree, strict=True)])


def as_aggregation(given: object) -> Aggregation | None:
    """Return an aggregation, or a mapping of them by name, as one; None for anything else.

    Raises:
        ConfigurationError: The mapping holds something else.
    """
    if isinstance(given, Aggregation):
        return given
    return Several(given) if isinstance(given, Mapping) else None

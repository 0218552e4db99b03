"""Condition `--where 'amount>10'`: compares one field of an event with a constant, and evaluates no code."""

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pspf.cli.exit_codes import UsageError

_EXPRESSION: Final = re.compile(r"\s*([A-Za-z_@][\w@.-]*?)\s*(<=|>=|==|!=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_MISSING: Final = object()

_ORDERED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`path op value`. A field that is missing, or of another type than the value, matches `!=` only."""

    path: tuple[str, ...]
    op: str
    value: Any

    def matches(self, event: Any) -> bool:
        """Return whether `event` (decoded JSON) fits."""
        found = self._find(event)
        if self.op == "!=":
            return found is _MISSING or not _equal(found, self.value)
        if found is _MISSING:
            return False
        if self.op == "==":
            return _equal(found, self.value)
        if self.op == "~":
            return _contains(found, self.value)
        return _comparable(found, self.value) and _ORDERED[self.op](found, self.value)

    def _find(self, event: Any) -> Any:
        for name in self.path:
            if isinstance(event, dict) and name in event:
                event = event[name]
            elif isinstance(event, list) and name.isdigit() and int(name) < len(event):
                event = event[int(name)]
            else:
                return _MISSING
        return event


def parse_condition(text: str) -> Condition:
    """Return the condition that `text` says: field, then one of = == != < <= > >= ~, then a JSON value or bare text.

    Raises:
        UsageError: It is no condition.
    """
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--where {text!r}: write FIELD OP VALUE, such as 'amount>10', 'user.name=ann' or 'place~Alaska'"
        )
    path, op, constant = match.groups()
    try:
        value = json.loads(constant)
    except ValueError:  # bare words need no quotes: key=ann
        value = constant
    return Condition(tuple(path.split(".")), "==" if op == "=" else op, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparable(left: Any, right: Any) -> bool:
    return (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str))


def _equal(left: Any, right: Any) -> bool:
    # `id=7` on the command line also finds "7": a shell has no types.
    if isinstance(left, str) and _is_number(right):
        return left == str(right)
    # JSON's true is no 1, as Python's is.
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _contains(found: Any, value: Any) -> bool:
    if isinstance(found, str):
        return str(value) in found
    return isinstance(found, list) and any(_equal(element, value) for element in found)

"""The registry of operators: what runs a definition, how that is described in stored progress, and how it is viewed.

Nothing else asks of what kind an operator's definition is. A new kind is a definition, an operator and a
line here, or a call of `register` from outside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.context import HandlerScope
from pspf.engine.handlers.traced import span_batches, trace_fold
from pspf.engine.operators.context import OperatorContext, OperatorScope
from pspf.engine.operators.host import OperatorHost
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.sections import DownstreamReader, SectionReader
from pspf.engine.operators.session_windows import SessionWindows
from pspf.engine.operators.shuffle import ShuffleSender
from pspf.engine.operators.time_windows import TimeWindows
from pspf.errors import ConfigurationError, StateUnreadable
from pspf.events.decoding import Decoder, SectionDecoder
from pspf.subscription import Subscription
from pspf.windowing.inspect import View, tell, view_sessions, view_spans
from pspf.windowing.operator_definition import OperatorDefinition
from pspf.windowing.progress import SHUFFLE_KIND, check_same, check_shuffled, describe, rules_of


def _describe_by_kind(definition: OperatorDefinition) -> Mapping[str, Any]:
    return {"operator": definition.kind}


def _no_rules(definition: OperatorDefinition) -> Mapping[str, Any]:
    return {}


def _rules_of_windows(windowing: Any) -> Mapping[str, Any]:
    return tell(windowing) | rules_of(windowing)


@dataclass(frozen=True, slots=True)
class OperatorKind:
    """What belongs to one kind of operator.

    `describe` says what has to stay the same for stored entries to make sense, `rules` what may change from version
    to version of the app; both are stored. `view` reads what is stored for `pspf windows list`, None: it is no
    windows. `version` is that of the stored form.
    """

    make: Callable[[OperatorContext], Operator]
    describe: Callable[[Any], Mapping[str, Any]] = _describe_by_kind
    rules: Callable[[Any], Mapping[str, Any]] = _no_rules
    view: Callable[[Mapping[str, Any]], View] | None = None
    version: int = 1

    def check(self, stored: bytes, definition: OperatorDefinition, handler: str) -> None:
        """Raise ConfigurationError where stored progress is another operator's."""
        check_same(stored, self.describe(definition), handler)


class ShuffleKind(OperatorKind):
    """The sender of a shuffle: it has no entries that could be another operator's."""

    __slots__ = ()

    def check(self, stored: bytes, definition: OperatorDefinition, handler: str) -> None:
        check_shuffled(stored, handler)


_SPANS: Final = OperatorKind(TimeWindows, describe, _rules_of_windows, view_spans)
_KINDS: Final[dict[str, OperatorKind]] = {
    "tumbling": _SPANS,
    "sliding": _SPANS,
    "session": OperatorKind(SessionWindows, describe, _rules_of_windows, view_sessions, version=2),
}
SHUFFLE: Final[OperatorKind] = ShuffleKind(ShuffleSender, lambda definition: {"kind": SHUFFLE_KIND})


def register(name: str, kind: OperatorKind) -> None:
    """Add a kind of operator, for definitions whose `kind` is `name`."""
    _KINDS[name] = kind


def find_kind(definition: OperatorDefinition) -> OperatorKind:
    """Return what belongs to a definition.

    Raises:
        ConfigurationError: No such operator is registered.
    """
    if definition.kind not in _KINDS:
        raise ConfigurationError(f"no operator {definition.kind!r} is registered; there are {', '.join(_KINDS)}")
    return _KINDS[definition.kind]


def make_host(
    subscription: Subscription, decode: Decoder, read: SectionDecoder, around: HandlerScope, scope: OperatorScope
) -> OperatorHost:
    """Return what runs a subscription's operator on one cursor, or the shuffle that its records need first."""
    definition = subscription.operator
    assert definition is not None
    needs_shuffle = subscription.repartition is not None and not subscription.is_behind_hop
    kind = SHUFFLE if needs_shuffle else find_kind(definition)
    spans = None if needs_shuffle else around.spans
    if spans is not None and definition.calls_handler:
        subscription = trace_fold(subscription, spans)
    context = OperatorContext(subscription, definition, decode, around, scope)
    operator = kind.make(context)
    if subscription.is_behind_hop:
        reader: SectionReader = DownstreamReader(context, decode, operator)
    else:
        reader = SectionReader(context, read, operator)
    told = {"version": kind.version, **kind.describe(definition), **kind.rules(definition)}

    def check(stored: bytes) -> None:
        kind.check(stored, definition, subscription.name)

    return OperatorHost(context, operator, reader, around, told, check, span_batches(subscription, spans))


def read_view(progress: bytes) -> View | None:
    """Return how the windows of a cursor are read, by its stored progress; None where it is not about windows.

    Raises:
        StateUnreadable: It is damaged.
    """
    try:
        tree = orjson.loads(progress)
        if "window" not in tree:
            return None
        view = _KINDS[tree["window"]["kind"]].view
        return None if view is None else view(tree)
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnreadable(
            f"what a handler remembers of its windows can't be read ({type(error).__name__}: {error}):"
            f" {progress!r:.120}; see `pspf groups inspect`, and seek its cursor with --reset-state"
        ) from error

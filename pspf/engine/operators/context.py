"""The parts that an operator's host gives to its operator."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pspf.clock import Clock
from pspf.connectors.contract.cursors import Consumer
from pspf.context import HandlerScope
from pspf.engine.effect_budget import EffectLimits
from pspf.engine.key_order import KeyOrder
from pspf.engine.operators.admission import Admission
from pspf.engine.operators.budget import Budget
from pspf.engine.operators.entries import Entries, RetryingCall
from pspf.engine.operators.late import LateRecords
from pspf.engine.operators.results import Results
from pspf.engine.operators.source import RecordSource
from pspf.events.decoding import Decoder
from pspf.subscription import Subscription
from pspf.windowing.operator_definition import OperatorDefinition
from pspf.windowing.spans import BEGINNING

T = TypeVar("T")

ReadTimes = Callable[[], Awaitable[Mapping[int, int]]]
"""From nothing to the watermarks of the handler's cursors on other partitions, by partition."""


@dataclass(frozen=True, slots=True)
class OperatorScope:
    """The surroundings of one cursor's operator. `wake` is called when it has work that no record brings."""

    consumer: Consumer
    held: KeyOrder
    insist: RetryingCall
    clock: Clock
    limits: EffectLimits
    max_entries: int
    wake: Callable[[], None]
    read_times: ReadTimes


@dataclass(slots=True)
class EventTime:
    """The event time of one cursor: its watermark, which never goes back."""

    watermark_ms: int = BEGINNING
    floor_ms: int = BEGINNING
    """No new record is judged by an earlier watermark: what was closed under other rules stays closed."""
    held_ms: dict[int, int] = field(default_factory=dict)
    """The watermark at the position of each record that was read and is not done, by offset."""

    def advance(self, to_ms: int | None) -> None:
        """Move the watermark on; an earlier time or none changes nothing."""
        if to_ms is not None and to_ms > self.watermark_ms:
            self.watermark_ms = to_ms


class OperatorContext:
    """One cursor's parts, shared by the host and the operator."""

    def __init__(
        self,
        subscription: Subscription,
        definition: OperatorDefinition,
        decode: Decoder,
        around: HandlerScope,
        scope: OperatorScope,
    ) -> None:
        self.subscription = subscription
        self.definition = definition
        self.name = subscription.name
        self.scope = scope
        self.time = EventTime()
        self.entries = Entries(scope.consumer, scope.insist)
        self.source = RecordSource(subscription, decode, scope.consumer.cursor.partition)
        self.budget = Budget(scope.limits)
        self.results = Results(subscription, around, self.source, scope.clock)
        self.late = LateRecords(subscription, self.source)
        self.admission = Admission(scope.held, self.time.held_ms, self.late)

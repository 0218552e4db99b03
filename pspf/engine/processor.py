"""Processor of a Stream: runs the loops of its cursors, with the gate and the instruments that they share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pspf.clock import Clock, SystemClock
from pspf.concurrency.shielding import shielded
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.engine.batch_outcome import Failure
from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.cursor_loop import CursorLoop
from pspf.engine.cursor_scope import CursorScope
from pspf.engine.key_order import KeyOrder
from pspf.engine.solo_gate import SoloGate
from pspf.engine.stop import Stop
from pspf.engine.tuning import Tuning
from pspf.events.topic import DeclaredTopic
from pspf.observability.telemetry import TelemetryManager
from pspf.records import Cursor
from pspf.state.base import StateStore
from pspf.subscription import Subscription
from pspf.windowing.spans import NEVER

_CHANCE_S: Final = 1.0
"""What a suspect waits for at most, drawn by lot, before it asks to be alone."""


@dataclass(slots=True)
class BatchProcessor:
    """Runs cursors. One per Stream: all its loops share the gate, the numbers and the instruments."""

    telemetry: TelemetryManager
    default_topic: str
    topics: Mapping[str, DeclaredTopic] = field(default_factory=dict)
    """The topics that the app declares, by name."""
    tuning: Tuning = field(default_factory=Tuning)
    clock: Clock = field(default_factory=SystemClock)
    gate: SoloGate = field(default_factory=lambda: SoloGate(chance_s=_CHANCE_S))
    state_store: StateStore | None = None
    warned: set[str] = field(default_factory=set)
    """The handlers that were warned that they emit past their commit."""
    is_abandoned: bool = False
    """Whether cursors are left as a killed process leaves them, instead of given back."""
    ends_on_refusal: bool = False
    """Whether a handler that can't read its state ends the app, instead of standing still alone."""
    on_failures: Callable[[Sequence[Failure]], None] | None = None
    """Called with the failures of each batch, once it is committed."""
    _loops: "set[CursorLoop]" = field(default_factory=set)

    @property
    def due_ms(self) -> int:
        """The wall-clock time at which the next operator has something to do."""
        return min((loop.due_ms for loop in self._loops), default=NEVER)

    @property
    def is_at_rest(self) -> bool:
        """Whether every loop waits for its broker to have something for it, or for the clock."""
        return all(loop.is_at_rest for loop in self._loops)

    @property
    def waiting_cursors(self) -> Collection[Cursor]:
        """The cursors whose next records wait for those of a slower topic."""
        return {cursor for loop in self._loops for cursor in loop.waiting_cursors}

    def finish(self, cursors: Collection[Cursor] | None = None) -> None:
        """Close the open windows of all cursors that run here, or of some, as at the end of the input."""
        for loop in self._loops:
            if cursors is None or loop.cursor in cursors:
                loop.finish()

    @property
    def is_refused(self) -> bool:
        """Whether the broker refuses the calls of a cursor at the moment."""
        return any(loop.is_refused for loop in self._loops)

    async def run(self, subscription: Subscription, broker: Broker, consumer: Consumer, stop: Stop) -> None:
        """Process a cursor until `stop` is set, then give it back.

        Raises:
            CommitFenced: Another worker owns the cursor by now, or it was moved; the batch that
                ran had no effect.
        """
        loop = CursorLoop(self._make_scope(subscription, broker, consumer), self.gate, stop)
        self._loops.add(loop)
        try:
            await loop.run_apart()
        finally:
            self._loops.discard(loop)
            await shielded(loop.close())

    def _make_scope(self, subscription: Subscription, broker: Broker, consumer: Consumer) -> CursorScope:
        lease = consumer.lease
        return CursorScope(
            subscription,
            broker,
            consumer,
            self.tuning,
            self.clock,
            self.telemetry,
            self.default_topic,
            self.topics,
            self.warned,
            self.state_store,
            held=None if lease is None else KeyOrder(lease.held, lease.position),
            insist=BrokerRetry(consumer.cursor, lambda: self.is_abandoned, broker.outage),
            on_failures=self.on_failures,
        )

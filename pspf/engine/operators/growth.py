"""Growth of a state by one event: by a ready aggregation, or by a call of the app's handler."""

from collections.abc import Callable
from typing import Any

from pspf import faults
from pspf.engine.handlers.isolation import OwnContext, in_own_context
from pspf.records import Record
from pspf.subscription import Subscription
from pspf.windowing.definitions import Windowing
from pspf.windowing.folds import ReadyFold, make_fold


class StateGrowth:
    """How the states of one windowed handler grow."""

    def __init__(self, subscription: Subscription, windowing: Windowing) -> None:
        self.fold = make_fold(windowing)
        self.fold.owner = f"handler {subscription.name}"
        handler = subscription.handler
        self.is_async = handler.is_async and windowing.calls_handler
        self.runs_in_thread = not handler.is_async and windowing.calls_handler
        function = _armed(handler.function, self.is_async)
        self.function = OwnContext(function) if self.is_async else in_own_context(function)

    def grow_at_once(self, event: Any, offset: int, state: Any) -> Any:
        """Return a state with one more event, where that needs no waiting. Errors: whatever the handler raises."""
        fold = self.fold
        if isinstance(fold, ReadyFold):
            return fold.add(event, offset, state)
        return fold.dump(self.function(event, None if state is None else fold.load(state)))

    async def grow(self, event: Any, record: Record, state: Any) -> Any:
        """Return a state with one more event. Errors: whatever the handler raises."""
        fold = self.fold
        if not self.is_async or isinstance(fold, ReadyFold):
            return self.grow_at_once(event, record.offset, state)
        return fold.dump(await self.function(event, None if state is None else fold.load(state)))


def _armed(function: Callable[..., Any], is_async: bool) -> Callable[..., Any]:
    if not faults.is_armed("handler.before", "handler.mid", "handler.after"):
        return function

    async def reach_and_await(event: Any, state: Any) -> Any:
        faults.reach("handler.before")
        grown = await function(event, state)
        faults.reach("handler.mid")
        faults.reach("handler.after")
        return grown

    def reach_and_call(event: Any, state: Any) -> Any:
        faults.reach("handler.before")
        grown = function(event, state)
        faults.reach("handler.mid")
        faults.reach("handler.after")
        return grown

    return reach_and_await if is_async else reach_and_call

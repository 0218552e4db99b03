"""Requirements of an app on its broker: refused before anything runs where the broker lacks a capability."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.capabilities import describe
from pspf.errors import NotAvailable
from pspf.stream.registration import check_together
from pspf.subscription import Subscription, Takes


@dataclass(frozen=True, slots=True)
class Requirement:
    """A capability, which handlers need it, and what they can do without it."""

    capability: str
    is_needed: Callable[[Subscription], bool]
    way_out: str


def _keeps_entries(subscription: Subscription) -> bool:
    """Return whether a handler has windows or a grouping key, or a context by which it can ask for state."""
    takes_key = subscription.handler.takes_context and subscription.handler.takes is not Takes.BATCH
    is_grouped = subscription.operator is not None or subscription.grouping_key is not None
    return is_grouped or (subscription.is_ordered and takes_key)


_REQUIREMENTS: Final = (
    Requirement("shared", lambda each: not each.is_ordered, 'pass ordering="key"'),
    Requirement("ordered", lambda each: each.is_ordered, 'leave ordering="key" out; windows need it'),
    Requirement("joint_commits", lambda each: bool(each.beside), "read each topic in a handler of its own"),
    Requirement("entries", _keeps_entries, "leave the Context out, which has ctx.state; windows need them"),
    Requirement("retries", lambda each: each.retry.max_attempts > 1, "pass retry=RetryPolicy(max_attempts=1)"),
)


def check_subscriptions(
    subscriptions: Sequence[Subscription], find_broker: Callable[[], Broker], *, has_state_store: bool
) -> None:
    """Raise ConfigurationError for handlers that can't run, not together, or not on this broker."""
    check_together(subscriptions, has_state_store=has_state_store)
    if subscriptions:
        refuse_lacking(find_broker(), subscriptions)


def refuse_lacking(broker: Broker, subscriptions: Sequence[Subscription]) -> None:
    """Raise NotAvailable where handlers need what the broker does not claim: all of them, and what to do instead."""
    lines = []
    for each in _REQUIREMENTS:
        if not broker.capabilities.has(each.capability):
            names = dict.fromkeys(f"{one.name} on {one.topic}" for one in subscriptions if each.is_needed(one))
            if names:
                lines.append(f"  {describe(each.capability)}, for {', '.join(names)}: {each.way_out}")
    if lines:
        raise NotAvailable(
            "\n".join(
                [f"{broker.name} lacks what this app needs:", *lines, "  or choose another broker: --backend URL"]
            )
        )

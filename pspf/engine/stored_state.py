"""Check of stored state before an app runs: one whose windows changed does not start."""

from collections.abc import Sequence

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StoredOperator
from pspf.engine.operators.registry import SHUFFLE, find_kind
from pspf.errors import NotFound
from pspf.subscription import Subscription, repartition_topic


async def check_stored(broker: Broker, subscriptions: Sequence[Subscription]) -> None:
    """Raise ConfigurationError where a handler has other windows in the broker than in the code."""
    for subscription in subscriptions:
        if subscription.operator is None:
            continue
        kept = await broker.list_operators(handler=subscription.name, group=subscription.group)
        if kept:
            is_sent_on = subscription.operator.key is not None and await _count(broker, subscription.topic) > 1
            for each in kept:
                _check(subscription, each, is_sent_on=is_sent_on)


async def _count(broker: Broker, topic: str) -> int:
    try:
        return (await broker.read_topic(topic))[0].partitions
    except NotFound:
        return 1


def _check(subscription: Subscription, kept: StoredOperator, *, is_sent_on: bool) -> None:
    name, definition = subscription.name, subscription.operator
    assert definition is not None
    if kept.cursor.topic == repartition_topic(subscription.group, name):
        find_kind(definition).check(kept.progress, definition, name)
    elif kept.cursor.topic == subscription.topic:
        kind = SHUFFLE if is_sent_on else find_kind(definition)
        kind.check(kept.progress, definition, name)

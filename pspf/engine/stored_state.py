"""What handlers have stored, looked at before anything runs: an app whose windows changed does not start."""

from collections.abc import Sequence

from pspf.connectors.base import Broker, CursorWindows
from pspf.errors import NotFound
from pspf.subscription import Subscription, repartition_topic
from pspf.windowing.folds import make_fold
from pspf.windowing.progress import check_hop, check_same, describe


async def check_stored(broker: Broker, subscriptions: Sequence[Subscription]) -> None:
    """Raise ConfigurationError where a handler has other windows in the broker than in the code."""
    for subscription in subscriptions:
        if subscription.windowing is None:
            continue
        kept = await broker.list_windows(handler=subscription.name, group=subscription.group)
        if kept:
            is_sent_on = subscription.windowing.key is not None and await _count(broker, subscription.topic) > 1
            for each in kept:
                _check(subscription, each, is_sent_on=is_sent_on)


async def _count(broker: Broker, topic: str) -> int:
    try:
        return (await broker.read_topic(topic))[0].partitions
    except NotFound:
        return 1


def _check(subscription: Subscription, kept: CursorWindows, *, is_sent_on: bool) -> None:
    assert subscription.windowing is not None
    name = subscription.name
    described = describe(subscription.windowing, make_fold(subscription.windowing))
    if kept.cursor.topic == repartition_topic(subscription.group, name):
        check_same(kept.progress, described, name)
    elif kept.cursor.topic == subscription.topic:
        if is_sent_on:
            check_hop(kept.progress, name)
        else:
            check_same(kept.progress, described, name)

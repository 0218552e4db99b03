"""Check of stored state before an app runs: one whose windows changed does not start."""

from collections.abc import Sequence

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StoredOperator
from pspf.engine.operators.registry import SHUFFLE, find_kind
from pspf.errors import ConfigurationError, NotFound
from pspf.records import EntryKind, kind_of
from pspf.subscription import Subscription, repartition_topic
from pspf.windowing.grouping import check_grouped
from pspf.windowing.timers.progress import check_stored as check_timers
from pspf.windowing.timers.progress import is_of_timers


async def check_stored(broker: Broker, subscriptions: Sequence[Subscription]) -> None:
    """Raise ConfigurationError where a handler has other windows in the broker than in the code, or another key=."""
    for subscription in subscriptions:
        if not subscription.is_ordered:
            continue
        kept = await broker.list_operators(handler=subscription.name, group=subscription.group)
        if subscription.operator is None:
            _check_timers(subscription, kept)
            if subscription.timers is None:
                await _check_grouping(broker, subscription, kept)
        elif kept:
            is_sent_on = subscription.operator.key is not None and await _count(broker, subscription.topic) > 1
            for each in kept:
                _check(subscription, each, is_sent_on=is_sent_on)


async def _check_grouping(broker: Broker, subscription: Subscription, kept: Sequence[StoredOperator]) -> None:
    """Raise ConfigurationError where what a handler remembers is by other keys than those that it groups by now."""
    name, key, topic = subscription.name, subscription.key, subscription.topic
    mine = [each for each in kept if each.cursor.topic == topic]
    is_sent_on = bool(kept) and key is not None and await _count(broker, topic) > 1
    for each in mine:
        check_grouped(each.progress, key, name, is_sent_on=is_sent_on)
    if key is None:
        return
    for each in kept:
        if each.cursor.topic == repartition_topic(subscription.group, name):
            check_grouped(each.progress, key, name, is_sent_on=False)
    if not mine:
        values = await broker.list_state(handler=name, group=subscription.group, max_entries=1)
        if any(value.topic == topic for value in values):
            raise ConfigurationError(
                f"handler {name} has a key=, and had none when it began: what it remembers is by its records' own keys:"
                " give it another name=, or seek with --reset-state"
            )


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


def _check_timers(subscription: Subscription, kept: Sequence[StoredOperator]) -> None:
    """Raise ConfigurationError where a handler's timers would never be called, or it was another one before."""
    name = subscription.name
    mine = [each for each in kept if each.cursor.topic == subscription.topic]
    for each in mine:
        if subscription.timers is not None:
            check_timers(each.progress, name)
        elif is_of_timers(each.progress) and any(kind_of(one) == EntryKind.TIMERS for one in each.namespaces):
            raise ConfigurationError(
                f"handler {name} has set timers ({each.cursor}), and has no function for them now: add"
                f" @stream.on_timer({name.rpartition('.')[2]}), give it another name=, or seek with --reset-state"
            )

"""Topics of a handler that reads several: all have the same number of partitions, so that a key is in one of them."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from pspf.connectors.contract.broker import Broker
from pspf.errors import TopicMismatch
from pspf.subscription import Subscription

CountPartitions = Callable[[str], Awaitable[int | None]]
"""From a topic to its number of partitions, None where it is not there."""


async def make_alike(subscription: Subscription, broker: Broker, count: CountPartitions) -> None:
    """Make the topics that are not there, with as many partitions as the others.

    Raises:
        TopicMismatch: Those that are there have not the same number.
    """
    counts = {topic: await count(topic) for topic in subscription.topics}
    known = {topic: partitions for topic, partitions in counts.items() if partitions is not None}
    check_alike(subscription, known)
    if not known:
        return
    partitions = next(iter(known.values()))
    for topic in subscription.topics:
        if topic not in known:
            with suppress(TopicMismatch):  # made by another one since: who joins it finds out
                await broker.create_topic(topic, partitions=partitions)


def check_alike(subscription: Subscription, counts: Mapping[str, int]) -> None:
    """Raise TopicMismatch where topics that are read together have not the same number of partitions."""
    if len(set(counts.values())) < 2:
        return
    most = max(counts.values())
    few = next(topic for topic, partitions in counts.items() if partitions != most)
    told = ", ".join(f"{topic} has {partitions}" for topic, partitions in counts.items())
    raise TopicMismatch(
        f"handler {subscription.name} reads topics of different numbers of partitions, and would find a key's records"
        f" apart: {told}\n"
        f"  give them the same number: pspf topics repartition {few} --partitions {most} --execute"
    )

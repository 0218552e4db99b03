"""Cursors of a handler of several topics, taken by the owner of the home: the one of its first topic."""

from collections.abc import Sequence
from dataclasses import replace
from heapq import merge
from typing import Final

from pspf.clock import Clock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.membership import Session
from pspf.engine.inputs.consumer import MergedConsumer
from pspf.engine.inputs.merge import ReadTime
from pspf.engine.inputs.times import make_read_time
from pspf.errors import BackendUnavailable, CommitStale, ConfigurationError
from pspf.records import Retry
from pspf.subscription import Subscription

_EARLIEST: Final = -(1 << 63)
_Timed = tuple[int, int, Retry]
"""A record that is not done: its time, the index of its topic, and what is stored of it."""


async def take_inputs(
    subscription: Subscription, home: Consumer, session: Session, broker: Broker, clock: Clock
) -> Consumer:
    """Return the cursors of all topics of a handler as one; for a handler of one topic its own.

    Raises:
        CommitFenced: The home is another worker's by now.
        CommitStale: One of them is gone.
        ConfigurationError: One beside the home has state.
    """
    if not subscription.beside:
        return home
    consumers = [home]
    try:
        for topic in subscription.beside:
            cursor = replace(home.cursor, topic=topic)
            taken = await session.take_beside(home, cursor)
            if taken is None:
                raise CommitStale(f"{cursor} is gone")
            consumers.append(taken)
            await _refuse_state(subscription, taken)
        read_time = make_read_time(clock)
        held = await _order_held(broker, consumers, read_time)
    except BaseException:
        for each in consumers[1:]:
            await _give_back(each)
        raise
    return MergedConsumer(consumers, held, read_time=read_time, clock=clock, wait_ms=subscription.wait_ms)


async def _give_back(consumer: Consumer) -> None:
    try:
        await consumer.release()
    except BackendUnavailable:
        return  # who has the home takes it


async def _refuse_state(subscription: Subscription, beside: Consumer) -> None:
    """Raise ConfigurationError where state is kept beside the home: nobody would read it, and it would begin anew."""
    if not await beside.list_namespaces() and await beside.read_progress() is None:
        return
    topic = beside.cursor.topic
    rest = [each for each in subscription.topics if each != topic]
    raise ConfigurationError(
        f"handler {subscription.name}: its state is kept with topic {topic!r}, and the first of its topics is"
        f" {subscription.topic!r}: name {topic!r} first, topics={[topic, *rest]!r}\n"
        f"  not needed any more? pspf groups delete {subscription.group} --topic {topic}"
        f" --handler {subscription.name} --execute"
    )


async def _order_held(broker: Broker, consumers: Sequence[Consumer], read_time: ReadTime) -> list[tuple[int, Retry]]:
    """Return what is not done, with the index of its topic, in the order in which it runs.

    Each topic's are in its own order. Of a key that waits in several topics the earlier event goes first, as it did
    when they were read; it is read again for that.
    """
    rows = [sorted([] if each.lease is None else each.lease.held, key=_offset_of) for each in consumers]
    keys = [{row.key for row in some if row.key is not None} for some in rows]
    several = {key for at, some in enumerate(keys) for key in some if any(key in other for other in keys[:at])}
    timed = list[list[_Timed]]()
    for index, (each, some) in enumerate(zip(consumers, rows, strict=True)):
        time_ms, ordered = _EARLIEST, list[_Timed]()
        for row in some:
            if row.key in several:
                time_ms = max(time_ms, await _read_time_of(broker, each, row, read_time))
            ordered.append((time_ms, index, row))
        timed.append(ordered)
    return [(index, row) for _, index, row in merge(*timed, key=lambda each: each[:2])]


def _offset_of(row: Retry) -> int:
    return row.offset


async def _read_time_of(broker: Broker, consumer: Consumer, row: Retry, read_time: ReadTime) -> int:
    """Return the event time of a record that is not done; the earliest where it was trimmed."""
    cursor = consumer.cursor
    found = await broker.read(cursor.topic, cursor.partition, offset=row.offset, max_records=1)
    return read_time(found[0]) if found and found[0].offset == row.offset else _EARLIEST

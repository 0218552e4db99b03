"""The assignment of a subscription: runs all of its shared cursors, and the ordered ones that the session is given."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from pspf.backoff import Backoff
from pspf.connectors.contract.assigned import Assigned, AssignedCursors
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.membership import Session
from pspf.engine.failure_log import fields_of
from pspf.engine.inputs.taking import take_inputs
from pspf.engine.inputs.topics import check_alike, make_alike
from pspf.engine.processor import BatchProcessor
from pspf.engine.stop import Stop
from pspf.errors import BackendUnavailable, CommitFenced, CommitStale, NotFound, StateUnreadable, TopicMismatch
from pspf.loggers import get_logger
from pspf.records import Cursor
from pspf.subscription import Subscription

logger = get_logger(__name__)

T = TypeVar("T")

_CALM_MS: Final = 2_000
"""The longest wait before a cursor is read again that is moved or lost again and again."""
_REFUSED_MS: Final = 30_000
"""When a handler whose state can't be read tries again: it may have been reset."""
_REFUSED_AGAIN_MS: Final = 5_000
"""How long that try may take until it is refused again; for so long it is not counted as ready."""


class Assignment:
    """Runs the cursors of one subscription until it is stopped."""

    def __init__(
        self, subscription: Subscription, broker: Broker, session: Session, processor: BatchProcessor, stop: Stop
    ) -> None:
        self._parts = subscription, broker, session, processor
        self._stop = stop

    async def run(self) -> None:
        """Run them, and again where the topic comes back with another number of partitions."""
        while not self._stop.is_set:
            stop = Stop(self._stop)
            try:
                await _Partitions(*self._parts, stop).run()
            finally:
                stop.detach()


class _Partitions:
    """The cursors of one subscription while its topic has the same number of partitions."""

    def __init__(
        self, subscription: Subscription, broker: Broker, session: Session, processor: BatchProcessor, stop: Stop
    ) -> None:
        self._subscription = subscription
        self._broker = broker
        self._session = session
        self._processor = processor
        self._stop = stop
        self._count = 0
        self._backoffs: dict[int, Backoff] = {}

    async def run(self) -> None:
        """Register and consume; returns when all cursors are given back."""
        partitions = await self._insist("join", self._register) or 0
        self._count = partitions
        self._subscription, behind = self._subscription.over(partitions)
        if behind is None:
            await self._consume(partitions)
            return
        beyond = _Partitions(behind, self._broker, self._session, self._processor, self._stop)
        beyond._count = await self._insist("join", beyond._join_behind_hop) or 0
        if not beyond._count:
            return
        async with asyncio.TaskGroup() as group:  # nothing is sent on before there are cursors that will read it
            group.create_task(beyond._consume(partitions), name=f"{behind.name} on {behind.topic}")
            group.create_task(self._consume(partitions), name=f"{behind.name} on its way to {behind.topic}")

    async def _consume(self, partitions: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name=f"partitions of {self._subscription.topic}")
            if self._subscription.is_ordered:
                await self._run_assigned(partitions, group)
            else:
                for partition in range(partitions):
                    group.create_task(self._share(partition), name=f"{self._cursor(partition)}")

    async def _watch(self) -> None:
        """Look now and then whether the topic has as many partitions as before."""
        while not await self._stop.wait(self._broker.limits.lease_ms):
            for topic in self._subscription.topics:
                try:
                    self._notice(await self._session.count_partitions(topic), topic)
                except BackendUnavailable as error:  # the cursors say so
                    logger.debug("%s: its partitions can't be counted: %s", topic, error)

    def _notice(self, count: int | None, topic: str) -> None:
        """Give all cursors back where the topic has another number of partitions by now."""
        if count in (None, self._count) or self._stop.is_set:
            return
        logger.warning(
            "topic %r has %d partitions now, and had %d: %s starts over with them",
            topic,
            count,
            self._count,
            self._subscription.name,
        )
        self._stop.set()

    async def _join(self) -> None:
        """Register again: the group, or the topic, may have been deleted."""
        self._notice(await self._insist("join", self._register), self._subscription.topic)

    async def _join_behind_hop(self) -> int:
        """Make the internal topic and its cursors where they are missing; what all are done with it does not keep.

        Raises:
            TopicMismatch: It has another number of partitions than the source by now.
        """
        hop = self._subscription.repartition
        assert hop is not None
        try:
            await self._broker.create_topic(hop.topic, partitions=hop.partitions, retention_ms=0)
        except TopicMismatch as error:
            what = str(error).splitlines()[0]  # the rest is for topics that are nobody's hop
            raise TopicMismatch(
                f"{what}; {hop.source!r}, which it carries on, has {hop.partitions}: drain it, then"
                f" `pspf topics delete {hop.topic} --execute`"
            ) from error
        return await self._register()

    def _cursor(self, partition: int) -> Cursor:
        subscription = self._subscription
        return Cursor(subscription.topic, subscription.group, subscription.cursor_handler, partition)

    async def _register(self) -> int:
        """Register the cursors of all of its topics; return their number of partitions.

        Raises:
            TopicMismatch: The topics have not the same number.
        """
        subscription = self._subscription
        if subscription.beside:
            await make_alike(subscription, self._broker, self._session.count_partitions)
        counts = {
            topic: await self._session.register(
                topic, subscription.group, subscription.cursor_handler, start=subscription.start
            )
            for topic in subscription.topics
        }
        check_alike(subscription, counts)
        return counts[subscription.topic]

    async def _share(self, partition: int) -> None:
        while not self._stop.is_set:
            try:
                consumer = await self._insist("consume", lambda: self._session.share(self._cursor(partition)))
                if consumer is None:
                    return
                await self._processor.run(self._subscription, self._broker, consumer, self._stop)
            except (CommitFenced, NotFound) as error:
                level = logging.WARNING if self._broker.outage.may_say() else logging.DEBUG
                logger.log(level, "%s; joining it again", error)
                await self._calm(partition, self._stop)
                await self._join()

    async def _insist(self, doing: str, act: Callable[[], Awaitable[T]]) -> T | None:
        """Do something with the broker, and again while it is not there; None once stopped."""
        backoff, is_told = Backoff(), False
        with self._processor.telemetry.asking():
            while not self._stop.is_set:
                try:
                    return await act()
                except BackendUnavailable as error:
                    is_told = is_told or self._tell(doing, error)
                    await self._broker.outage.wait(backoff.next_ms(), self._stop)
        return None

    def _tell(self, doing: str, error: BackendUnavailable) -> bool:
        """Say it, unless that was said of something else of this process just now; return whether it was."""
        if not self._broker.outage.may_say():
            return False
        topic, group = self._subscription.topic, self._subscription.group
        logger.warning("can't %s %s as %s, will try again: %s", doing, topic, group, error)
        return True

    # Ordered cursors: each has one owner, which the broker's session says

    async def _run_assigned(self, partitions: int, group: asyncio.TaskGroup) -> None:
        """Run each cursor that is assigned, until stopped."""
        if not partitions:
            return
        subscription, unread = self._subscription, self._processor.telemetry.unread
        place = (subscription.topic, subscription.group, subscription.name)

        def note_unread(numbers: tuple[int, ...]) -> None:
            unread[place] = numbers

        cursors = self._session.assigned(*place, partitions, note_unread)
        self._stop.add(cursors.wake)
        try:
            while not self._stop.is_set:
                await self._take(cursors, group)
        finally:
            self._stop.remove(cursors.wake)
            await cursors.close()
            unread.pop(place, None)
        # What is still in hand may take its time; the others needn't wait for it to take the rest.
        with suppress(BackendUnavailable):  # then they find out by themselves
            await cursors.resign()

    async def _take(self, cursors: AssignedCursors, group: asyncio.TaskGroup) -> None:
        """Run what is newly assigned, or wait until something may be."""
        try:
            assigned = await self._insist("divide", cursors.take)
        except NotFound as error:  # the topic has fewer partitions by now
            logger.info("%s; joining it again", error)
            await self._join()
            return
        if assigned is None:
            await cursors.wait()
        else:
            group.create_task(self._run_one(assigned), name=f"{assigned.consumer.cursor}")

    async def _run_one(self, assigned: Assigned) -> None:
        """Run an ordered cursor until it is revoked, then give it back."""
        stop = Stop(self._stop)
        assigned.when_revoked(stop.set)
        try:
            await self._consume_owned(assigned.consumer, stop)
        finally:
            stop.detach()
            assigned.given_back()

    async def _consume_owned(self, consumer: Consumer, stop: Stop) -> None:
        """Consume an ordered cursor until `stop`, or until it is another's; then it is given back for certain."""
        partition = consumer.cursor.partition
        try:
            merged = await self._insist("take", lambda: self._take_inputs(consumer))
            if merged is not None:
                consumer = merged
                await self._processor.run(self._subscription, self._broker, consumer, stop)
        except CommitStale as error:
            logger.info("%s; reading it again", error)
            await self._calm(partition, stop)
            if self._subscription.beside:  # one of them may be gone
                await self._join()
        except CommitFenced as error:
            self._processor.telemetry.record_lease_loss(
                self._subscription.topic, self._subscription.group, self._subscription.name
            )
            logger.warning("%s: its lease was ended", error)
            await self._calm(partition, stop)
            await self._join()
        except StateUnreadable as error:
            if self._processor.ends_on_refusal:
                raise
            logger.error("%s stands still, others go on: %s", consumer.cursor, error, extra=fields_of(consumer.cursor))
            until_s = time.monotonic() + (_REFUSED_MS + _REFUSED_AGAIN_MS) / 1000
            self._processor.telemetry.refused[consumer.cursor] = until_s, str(error)
            await stop.wait(_REFUSED_MS)  # it is kept meanwhile: others could read it no better
        if not self._processor.is_abandoned:
            await self._insist("give back", consumer.release)  # the broker may have been away when the loop tried

    async def _take_inputs(self, home: Consumer) -> Consumer:
        return await take_inputs(self._subscription, home, self._session, self._broker, self._processor.clock)

    async def _calm(self, partition: int, stop: Stop) -> None:
        """Wait before a cursor is read again that was lost or moved, where that came shortly before, too."""
        await stop.wait(self._backoffs.setdefault(partition, Backoff(max_ms=_CALM_MS)).next_after_first_ms())

"""Sends the records of one source partition on to the partitions of their grouping keys.

It has a cursor of its own, so that a record is sent on exactly once; what becomes of it there is behind the hop
(host.py). A record whose grouping key can't be told is retried and dead-lettered here, and while it waits the
time of this source stands still, so that nothing is closed over it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.handlers.executor import Executor, YieldPoint, ends_run
from pspf.engine.idleness import IdleTracker
from pspf.engine.operators.host import BREATH_RECORDS, OperatorScope
from pspf.errors import ConfigurationError, StateUnreadable
from pspf.events.decoding import Decoder
from pspf.events.timestamps import NO_LIMIT_MS, FutureGuard, find_latest_ms, time_of
from pspf.records import Record, WindowChanges, partition_of
from pspf.subscription import Subscription
from pspf.windowing.event_time import make_key_reader
from pspf.windowing.progress import check_hop
from pspf.windowing.shuffle import keys_of_partitions, mark, send_on
from pspf.windowing.spans import BEGINNING

_KIND: Final = "repartition"
_FIRST_LOOK_MS: Final = 100
_LAST_LOOK_MS: Final = 500

ReadTimes = Callable[[], Awaitable[Mapping[int, int]]]
"""From nothing to the times of the other source partitions, by partition."""


def _read_times(stored: bytes, name: str) -> tuple[int, int]:
    """Return the highest event time of a source partition, and the time that is told of it.

    Raises:
        StateUnreadable: It is damaged, or of a handler that did not send its records on.
    """
    try:
        check_hop(stored, name)
        tree: dict[str, Any] = orjson.loads(stored)
        return int(tree["highest_ms"]), int(tree["watermark_ms"])
    except ConfigurationError as error:
        raise StateUnreadable(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnreadable(
            f"the time that handler {name} has sent records on to can't be read ({type(error).__name__}: {error}): seek"
            " with --reset-state to start anew, or restore the broker's data"
        ) from error


class ShuffleSender(Executor):
    """One source partition on its way through the internal topic."""

    def __init__(self, subscription: Subscription, read: Decoder, room: OperatorScope, read_others: ReadTimes) -> None:
        assert subscription.windowing is not None
        assert subscription.repartition is not None
        self._windowing = subscription.windowing
        self._hop = subscription.repartition
        self._name = subscription.name
        self._read = read
        self._room = room
        self._read_others = read_others
        self._key_of = make_key_reader(self._windowing.key)
        self._keys = keys_of_partitions(self._hop.partitions)
        self._is_open = False
        self._latest_ms = NO_LIMIT_MS
        self._future = FutureGuard(subscription.name)
        self._highest_ms = BEGINNING
        """The highest event time that was read here."""
        self._source_ms = BEGINNING
        """The time that is told: the same, unless a record waits that was read before."""
        self._told: dict[int, int] = {}
        """What this source's time was when each partition last heard of it."""
        self._others: Mapping[int, int] = {}
        self._others_read = 0
        """How many reads of our own were begun when we learned of the others."""
        self._look_ms = _FIRST_LOOK_MS
        self._has_news = False

    async def _open(self) -> None:
        stored = await self._room.insist("read progress", self._room.consumer.read_progress)
        if stored is not None:
            self._highest_ms, self._source_ms = _read_times(stored, self._name)
        self._is_open = True

    async def run(self, records: Sequence[Record], run: BatchRun) -> int:
        if not self._is_open:
            await self._open()
        breath = YieldPoint()
        taken = 0
        self._latest_ms = find_latest_ms(self._windowing.max_future_ms, self._room.clock)
        for record in records:
            if not taken % BREATH_RECORDS:
                await breath.take()
            if run.is_closed:
                break
            taken += 1
            if not run.has_to_ask or run.admit(record):
                self._send_on(record, run)
        if records:
            self._look_ms = _FIRST_LOOK_MS
        if taken or self._has_news:
            self._tell(records[taken - 1].offset if taken else run.batch.end, run)
        return taken

    def _send_on(self, record: Record, run: BatchRun) -> None:
        try:
            event = self._read(record)
            time_ms = time_of(event, record)
            key = self._key_of(event, record)
            if time_ms > self._latest_ms:
                raise self._future.refuse(record, time_ms, self._latest_ms)
            self._note(time_ms)
            routed = send_on(record, key, self._source_ms)
        except BaseException as error:  # the boundary of the record
            if ends_run(error, run):
                raise
            run.fail(record, error)
            return
        run.send(record.offset, self._hop.topic, routed)
        run.passed += 1
        self._told[partition_of(routed.raw_key or b"", self._hop.partitions)] = self._source_ms
        if run.has_to_ask:
            run.succeed(record)

    def _note(self, time_ms: int) -> None:
        self._highest_ms = max(self._highest_ms, time_ms)
        if not len(self._room.held):
            self._source_ms = self._highest_ms

    def _tell(self, source: int, run: BatchRun) -> None:
        """Let all partitions know this source's time."""
        self._note(BEGINNING)
        if self._source_ms != BEGINNING:
            own = self._room.consumer.cursor.partition
            for partition, raw_key in enumerate(self._keys):
                if self._told.get(partition) != self._source_ms:
                    run.send(source, self._hop.topic, mark(own, self._source_ms, raw_key))
                    self._told[partition] = self._source_ms
        progress = {
            "version": 1,
            "kind": _KIND,
            "highest_ms": self._highest_ms,
            "watermark_ms": self._source_ms,
            "has_more": False,
            "is_finished": True,  # nothing is open here: that is behind the hop
        }
        watermark_ms = None if self._source_ms == BEGINNING else self._source_ms
        run.windows = WindowChanges(watermark_ms, orjson.dumps(progress))
        self._has_news = False

    # At the end of the partition

    @property
    def has_late(self) -> bool:
        return self._has_news

    def patience_ms(self, silence: IdleTracker, now_ms: int) -> int:
        # Who has learned that others are ahead has only to see that there is still nothing here.
        return 1 if self._is_behind and not len(self._room.held) else self._look_ms

    async def notice(self, silence: IdleTracker) -> None:
        """Take over the time of the others, where a read that began after they told it found nothing."""
        if not silence.shown or len(self._room.held):
            return
        if not self._is_open:
            await self._open()
        if self._is_behind and silence.shown > self._others_read:
            self._highest_ms = self._source_ms = max(self._others.values())
            self._has_news = True
        others = await self._room.insist("read the times of other partitions", self._read_others)
        if others == self._others:  # and known since then
            self._look_ms = min(2 * self._look_ms, _LAST_LOOK_MS)
        else:
            self._look_ms = _FIRST_LOOK_MS
            self._others, self._others_read = others, silence.reads

    @property
    def _is_behind(self) -> bool:
        return max(self._others.values(), default=BEGINNING) > self._source_ms

"""Reading of what an app under test has done: topics, state, windows, dead letters, as plain values."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.operations import PendingRecord
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.engine.open_windows import each_window, find_windows
from pspf.errors import NotFound
from pspf.records import LATE_SUFFIX, Record
from pspf.stream import Stream
from pspf.testing.known_topics import KnownTopics
from pspf.windowing.definitions import WindowResult


class AppReading(ABC):
    """What a test looks at. `topics` refuses names of topics that nobody writes."""

    def __init__(self, stream: Stream, topics: KnownTopics) -> None:
        self._stream = stream
        self._topics = topics
        self._groups = sorted({each.group for each in stream.subscriptions})
        self._seen: dict[tuple[str, int], int] = {}
        """The offset behind the last record that `new_records` gave, by topic and partition."""

    @property
    @abstractmethod
    def broker(self) -> Broker:
        """The broker, for whatever else a test wants to know."""

    async def outputs(self, topic: str) -> list[Any]:
        """Return the events of a topic as JSON has them, in order, by partition; none where it is not there yet.

        Raises:
            ConfigurationError: Nobody has written the topic, and nothing says that anybody will.
        """
        return [orjson.loads(record.value) for record in await self.records(topic)]

    async def new_outputs(self, topic: str) -> list[Any]:
        """Return the events of a topic since the last call of this or of `new_records`. Errors as in `outputs`."""
        return [orjson.loads(record.value) for record in await self.new_records(topic)]

    async def records(self, topic: str) -> list[Record]:
        """Return the records of a topic: its events with key, headers and timestamp. Errors as in `outputs`."""
        return await self._read(topic, {})

    async def new_records(self, topic: str) -> list[Record]:
        """Return the records of a topic since the last call of this or of `new_outputs`. Errors as in `outputs`."""
        found = await self._read(topic, self._seen)
        for record in found:
            self._seen[str(topic), record.partition] = record.offset + 1
        return found

    async def _read(self, topic: str, since: Mapping[tuple[str, int], int]) -> list[Record]:
        try:
            _, partitions = await self.broker.read_topic(topic)
        except NotFound:
            self._topics.check_read(topic, [info.topic for info in await self.broker.list_topics()])
            return []
        return [
            record
            for each in partitions
            for record in await self.broker.read(
                topic,
                each.partition,
                offset=max(each.first, since.get((str(topic), each.partition), 0)),
                max_records=max(1, each.records),
            )
        ]

    async def late(self, topic: str) -> list[Any]:
        """Return the events of a topic that came too late for all of their windows. Errors as in `outputs`."""
        return await self.outputs(topic + LATE_SUFFIX)

    async def dead_letters(self, topic: str | None = None) -> Sequence[StoredDeadLetter]:
        """Return what was given up, of one topic or all: `record`, `error_type`, `error`, `attempts`, `traceback`."""
        return await self.broker.list_dead_letters(topic=topic)

    async def pending(self) -> Sequence[PendingRecord]:
        """Return what was delivered and is not done: it waits for a retry, or for an earlier record of its key."""
        known = {info.cursor.group for info in await self.broker.list_cursors()}
        return [
            record
            for group in self._groups
            if group in known
            for record in await self.broker.operations.list_pending(group)
        ]

    async def state(self, handler: str | Callable[..., Any], key: str, name: str) -> Any:
        """Return what an ordered handler, or the one of that name, remembers for a key; None where it is nothing."""
        return await self._stream.read_state(handler, key, name)

    async def states(self, handler: str | Callable[..., Any]) -> dict[str, dict[str, Any]]:
        """Return all that an ordered handler, or the one of that name, remembers: `{key: {name: value}}`."""
        found: dict[str, dict[str, Any]] = {}
        chosen = self._stream.find_ordered(handler)
        for entry in await self.broker.list_state(handler=chosen.name, group=chosen.group):
            found.setdefault(entry.key.decode(), {})[entry.name] = orjson.loads(entry.value)
        return found

    async def windows(self, handler: str | Callable[..., Any]) -> list[WindowResult]:
        """Return the open windows of a windowed handler, or of the one of that name, with their results so far.

        They are by partition, then by start and key; sessions by key and start.
        """
        chosen = self._stream.find_ordered(handler)
        return [
            WindowResult(
                window.key,
                window.start_ms,
                window.end_ms,
                None if window.value is None else orjson.loads(window.value),
            )
            for cursor in await find_windows(self.broker, handler=chosen.name, group=chosen.group)
            async for window in each_window(self.broker, cursor)
        ]

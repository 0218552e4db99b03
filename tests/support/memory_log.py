"""The log of a broker in one process, in plain lists: topics, append, read."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pspf.clock import Clock
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.values import FOREVER, PartitionInfo, TopicInfo
from pspf.connectors.routing import Router, check_partitions
from pspf.errors import ConfigurationError, NotFound
from pspf.records import Appended, NewRecord, Record, check_name, companion_source


@dataclass
class Log:
    """One partition."""

    records: list[Record] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    next: int = 1


@dataclass
class Topic:
    """A topic and its partitions."""

    retention_ms: int
    logs: list[Log]


class LogInMemory(Broker):
    """A broker's topics and records."""

    def __init__(self, name: str, limits: Limits, clock: Clock) -> None:
        super().__init__()
        self.name = name
        self.limits = limits
        self.clock = clock
        self.topics: dict[str, Topic] = {}
        self.changed = asyncio.Event()
        """Set, and another one in its place, when something was stored, assigned, or the clock may have moved."""
        self._router = Router()

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def create_topic(self, topic: str, *, partitions: int | None = None, retention_ms: int | None = None) -> bool:
        check_name("topic", topic)
        if companion_source(topic) is not None:
            raise ConfigurationError(f"topic {topic!r}: a companion is made by PSPF itself")
        if partitions is not None and partitions < 1:
            raise ConfigurationError(f"topic {topic!r}: {partitions} partitions")
        if topic in self.topics:
            check_partitions(topic, len(self.topics[topic].logs), partitions)
            return False
        self.ensure(topic, partitions or 1, retention_ms)
        return True

    def ensure(self, topic: str, partitions: int = 1, retention_ms: int | None = None) -> Topic:
        if topic not in self.topics:
            source = companion_source(check_name("topic", topic))
            if source is not None:
                partitions, retention_ms = len(self.ensure(source).logs), FOREVER
            kept_ms = self.limits.retention_ms if retention_ms is None else retention_ms
            self.topics[topic] = Topic(kept_ms, [Log() for _ in range(partitions)])
        return self.topics[topic]

    def find(self, topic: str, partition: int) -> Log:
        if topic not in self.topics or not 0 <= partition < len(self.topics[topic].logs):
            raise NotFound(f"no partition {partition} of topic {topic!r}")
        return self.topics[topic].logs[partition]

    async def list_topics(self) -> Sequence[TopicInfo]:
        return [(await self.read_topic(topic))[0] for topic in sorted(self.topics)]

    async def read_topic(self, topic: str) -> tuple[TopicInfo, Sequence[PartitionInfo]]:
        if topic not in self.topics:
            raise NotFound(f"no topic {topic!r}")
        found = self.topics[topic]
        sizes = [len(each.value) + len(each.raw_key or b"") for log in found.logs for each in log.records]
        parts = [PartitionInfo(number, 1, log.next, len(log.records)) for number, log in enumerate(found.logs)]
        return TopicInfo(topic, len(parts), len(sizes), sum(sizes), found.retention_ms), parts

    async def append(self, topic: str, records: Sequence[NewRecord]) -> Sequence[Appended]:
        if companion_source(check_name("topic", topic)) is not None:
            raise ConfigurationError(f"topic {topic!r}: dead and late records are written by PSPF alone")
        self.limits.check_all(records)
        return self.store(topic, records) if records else []

    def store(self, topic: str, records: Sequence[NewRecord]) -> list[Appended]:
        routes = self._router.route(topic, len(self.ensure(topic).logs), records)
        places = {index: self.store_in(topic, number, records[index]) for number in routes for index in routes[number]}
        return [places[index] for index in range(len(records))]

    def store_in(self, topic: str, partition: int, record: NewRecord) -> Appended:
        log, now_ms = self.find(topic, partition), self.clock.now_ms()
        at_ms = now_ms if record.timestamp_ms is None else record.timestamp_ms
        log.records.append(Record(topic, partition, log.next, record.raw_key, record.value, record.raw_headers, at_ms))
        log.times_ms.append(now_ms)
        log.next += 1
        self.change()
        return Appended(partition, log.next - 1)

    async def read(self, topic: str, partition: int, *, offset: int, max_records: int) -> Sequence[Record]:
        found = [record for record in self.find(topic, partition).records if record.offset >= offset]
        return found[:max_records]

    async def find_offset(self, topic: str, partition: int, *, at_ms: int) -> int:
        log = self.find(topic, partition)
        later = (record.offset for record, ms in zip(log.records, log.times_ms, strict=True) if ms >= at_ms)
        return next(later, log.next)

    async def wait(self, topic: str, *, timeout_ms: int) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), timeout_ms / 1000)

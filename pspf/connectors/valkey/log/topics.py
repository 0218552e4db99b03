"""Topics on a server: their numbers of partitions, and the streams of these.

`pspf:topics` is the authority. Each partition's meta hash repeats what its scripts need, so that
they see by one key of their own slot whether the topic is (still) there.
"""

from dataclasses import dataclass, field
from typing import Final

from pspf.connectors.contract.values import FOREVER
from pspf.connectors.routing import check_partitions
from pspf.connectors.valkey.connection.format import FORMAT, FORMAT_KEY
from pspf.connectors.valkey.connection.pool import Lanes
from pspf.connectors.valkey.log.keys import TOPICS_KEY, PartitionKeys, stream_name
from pspf.errors import BackendCorrupt, ConfigurationError, NotFound
from pspf.loggers import get_logger
from pspf.records import check_name, companion_source

logger = get_logger(__name__)

MAX_PARTITIONS: Final = 1_024


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: `retention_ms` None is the caller's default."""

    name: str
    retention_ms: int | None
    partitions: tuple[PartitionKeys, ...] = field(repr=False)

    @property
    def count(self) -> int:
        """The number of partitions."""
        return len(self.partitions)

    def partition(self, number: int) -> PartitionKeys:
        """Return the keys of one partition.

        Raises:
            NotFound: It has none of this number.
        """
        if not 0 <= number < len(self.partitions):
            raise NotFound(f"topic {self.name!r} has partitions 0 to {len(self.partitions) - 1}, not {number}")
        return self.partitions[number]


def make_topic(name: str, partitions: int, retention_ms: int | None) -> Topic:
    """Return a topic with the keys of its partitions."""
    keys = tuple(PartitionKeys(stream_name(name, number, partitions)) for number in range(partitions))
    return Topic(name, retention_ms, keys)


class Topics:
    """The topics, as one broker object knows them."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._lane = lanes.lane_for(TOPICS_KEY)
        self._known: dict[str, Topic] = {}
        self._past: dict[str, Topic] = {}
        """What was forgotten. What was flushed is made again as it was, so that no key changes its partition."""

    async def find(self, name: str) -> Topic | None:
        """Return a topic as the server has it, None where there is none."""
        raw = await self._lane.call("HGET", TOPICS_KEY, name)
        return None if raw is None else _parse(name, raw)

    async def get(self, name: str) -> Topic:
        """Return a topic as the server has it.

        Raises:
            NotFound: It does not exist.
        """
        found = await self.find(name)
        if found is None:
            raise NotFound(f"no topic {name!r}")
        return found

    async def list(self) -> list[Topic]:
        """Return all topics, by name."""
        raw = await self._lane.call("HGETALL", TOPICS_KEY)
        found: list[Topic] = []
        for name, value in zip(raw[::2], raw[1::2], strict=True):
            try:
                found.append(_parse(check_name("topic", name.decode("utf-8", "backslashreplace")), value))
            except (BackendCorrupt, ConfigurationError) as error:  # one that is damaged is no reason to show none
                logger.warning("%s: left out: %s; HDEL %s removes it", self._lane.name, error, TOPICS_KEY.decode())
        return sorted(found, key=lambda topic: topic.name)

    async def ensure(self, name: str) -> Topic:
        """Return a topic, made where it is missing, a companion like its source. Asks the server once."""
        known = self._known.get(name)
        return known if known is not None else await self._ensure(name)

    def find_known(self, name: str) -> Topic | None:
        """Return a topic that the server was asked for before, None for another."""
        return self._known.get(name)

    def forget(self, name: str) -> None:
        """Ask the server again the next time."""
        if name in self._known:
            self._past[name] = self._known.pop(name)

    def forget_all(self) -> None:
        """Ask the server again for each of them: all may have been flushed."""
        self._past |= self._known
        self._known.clear()

    async def create(self, name: str, partitions: int | None, retention_ms: int | None) -> bool:
        """Make a topic; return False where it was there. Errors: see `Broker.create_topic`."""
        check_name("topic", name)
        if companion_source(name) is not None:
            raise ConfigurationError(f"topic {name!r}: -dlq and -late end the names of topics that PSPF makes itself")
        if partitions is not None and not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"topic {name!r}: {partitions} partitions; use 1 to {MAX_PARTITIONS}")
        is_new, topic = await self._insert(make_topic(name, partitions or 1, retention_ms))
        check_partitions(name, topic.count, partitions)
        return is_new

    async def _ensure(self, name: str) -> Topic:
        source = companion_source(check_name("topic", name))
        if source is None:
            fresh = self._past.get(name) or make_topic(name, 1, None)
        else:
            beside = await self.find(source) or await self.ensure(source)
            fresh = make_topic(name, beside.count, FOREVER)
        return (await self._insert(fresh))[1]

    async def _insert(self, fresh: Topic) -> tuple[bool, Topic]:
        """Make a topic where it is missing; return whether it was, and the topic as it is now."""
        await self._refuse_foreign(fresh)
        is_new = await self._lane.call("HSETNX", TOPICS_KEY, fresh.name, format_topic(fresh)) == 1
        topic = fresh if is_new else await self.find(fresh.name) or fresh
        retention = "-" if topic.retention_ms is None else str(topic.retention_ms)
        writes: list[tuple[bytes | str | int, ...]] = [
            ("HSET", keys.meta, "partitions", topic.count, "retention", retention) for keys in topic.partitions
        ]
        writes.append(("SET", FORMAT_KEY, FORMAT, "NX"))  # it may have been flushed with the rest
        for reply in await self._lanes.call_many(writes):
            self._lane.check(reply, "HSET")
        self._known[topic.name] = topic
        return is_new, topic

    async def _refuse_foreign(self, fresh: Topic) -> None:
        """Raise BackendCorrupt where a topic is not there yet, and a key of its name is another program's."""
        asked: list[tuple[bytes | str | int, ...]] = [("TYPE", keys.stream) for keys in fresh.partitions]
        is_there, *kinds = await self._lanes.call_many([("HEXISTS", TOPICS_KEY, fresh.name), *asked])
        if self._lane.check(is_there, "HEXISTS"):
            return
        for keys, reply in zip(fresh.partitions, kinds, strict=True):
            kind = self._lane.check(reply, "TYPE")
            if kind not in (b"none", b"stream"):
                raise BackendCorrupt(
                    f"{self._lane.name}: topic {fresh.name!r} would be the key {keys.stream.decode()!r}, which is a"
                    f" {kind.decode()} of another program: use another topic, or rename that key"
                )


def format_topic(topic: Topic) -> str:
    """Return a topic as `pspf:topics` has it."""
    return f"{topic.count} {'-' if topic.retention_ms is None else topic.retention_ms}"


def _parse(name: str, raw: bytes) -> Topic:
    try:
        partitions, retention = raw.split(b" ")
        if not 1 <= int(partitions) <= MAX_PARTITIONS:
            raise ValueError("no topic has so many partitions")
        return make_topic(name, int(partitions), None if retention == b"-" else int(retention))
    except ValueError as error:
        raise BackendCorrupt(f"{TOPICS_KEY.decode()} says {raw!r:.80} of topic {name!r}") from error

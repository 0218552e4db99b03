"""Topics that a Stream declares: checked together, made at the start, compared with what is there."""

from collections.abc import Iterable
from typing import NamedTuple

from pspf.connectors.contract.broker import Broker
from pspf.errors import ConfigurationError
from pspf.events.topic import DeclaredTopic, describe_retention, describe_topic
from pspf.loggers import get_logger

logger = get_logger(__name__)


class TopicToMake(NamedTuple):
    """A topic that is made where it is missing. None: partitions as they are, retention as the broker has it."""

    topic: str
    partitions: int | None
    retention_ms: int | None

    def __str__(self) -> str:
        return f"{self.topic} ({describe_topic(self.partitions, self.retention_ms)})"


class TopicDeclarations:
    """The topics that a Stream declares; those of the Streams that it includes among them, as they come.

    `partitions` is how many the Stream's default topic has, None: as it is.
    """

    def __init__(self, default: str, partitions: int | None) -> None:
        self.declared: dict[str, DeclaredTopic] = {}
        self._numbers = {} if partitions is None else {default: partitions}
        self._hosts: list[TopicDeclarations] = []

    def declare(self, topic: DeclaredTopic) -> DeclaredTopic:
        """Declare a topic here, and with all that have included this one; return it.

        Raises:
            ConfigurationError: There is another declaration of it.
        """
        self._check(topic)
        self._add(topic)
        return topic

    def include(self, other: "TopicDeclarations") -> None:
        """Take in another's declarations, later ones as well.

        Raises:
            ConfigurationError: There is another declaration of one of them.
        """
        for topic in other.declared.values():
            self._check(topic)
        for name, number in other._numbers.items():
            self._check_number(name, number)
        for topic in other.declared.values():
            self._add(topic)
        self._add_numbers(other._numbers)
        other._hosts.append(self)

    def to_make(self) -> list[TopicToMake]:
        """Return the topics that are made at the start, by name."""
        return [self._to_make(name) for name in sorted({*self.declared, *self._numbers})]

    def _to_make(self, name: str) -> TopicToMake:
        declared, number = self.declared.get(name), self._numbers.get(name)
        if declared is None:
            return TopicToMake(name, number, None)
        return TopicToMake(name, number if declared.partitions is None else declared.partitions, declared.retention_ms)

    def _add(self, topic: DeclaredTopic) -> None:
        self.declared.setdefault(str(topic), topic)
        for host in self._hosts:
            host._add(topic)

    def _add_numbers(self, numbers: dict[str, int]) -> None:
        self._numbers |= numbers
        for host in self._hosts:
            host._add_numbers(numbers)

    def _check(self, topic: DeclaredTopic) -> None:
        """Raise ConfigurationError where there is another declaration of a topic, here or with a host."""
        if topic.partitions is not None:
            self._check_number(str(topic), topic.partitions)
        other = self.declared.get(topic)
        if other is not None and not other.is_same(topic):
            raise ConfigurationError(
                f"topic {str(topic)!r} is declared twice, and not alike: {other!r} and {topic!r}: declare it once, and"
                " import that"
            )
        for host in self._hosts:
            host._check(topic)

    def _check_number(self, topic: str, partitions: int) -> None:
        declared = self.declared.get(topic)
        for number in (self._numbers.get(topic), None if declared is None else declared.partitions):
            if number is not None and number != partitions:
                raise ConfigurationError(
                    f"topic {topic!r} is declared with {number} partitions and with {partitions}: it has one number of"
                    " them (Stream(partitions=) is that of its default topic)"
                )
        for host in self._hosts:
            host._check_number(topic, partitions)


async def make_topics(broker: Broker, topics: Iterable[TopicToMake]) -> None:
    """Make the topics that are missing; warn of one that keeps its records for another time than it is declared with.

    Raises:
        TopicMismatch: One has another number of partitions.
    """
    for each in topics:
        is_new = await broker.create_topic(each.topic, partitions=each.partitions, retention_ms=each.retention_ms)
        if is_new or each.retention_ms is None:
            continue
        kept_ms = (await broker.read_topic(each.topic))[0].retention_ms
        if kept_ms != each.retention_ms:
            kept, declared = describe_retention(kept_ms), describe_retention(each.retention_ms)
            logger.warning(
                "topic %s has retention %s and is declared with %s; it stays as it is. To change it: pspf topics alter"
                " %s --retention %s --execute",
                each.topic,
                kept,
                declared,
                each.topic,
                declared,
            )

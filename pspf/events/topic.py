"""A topic as code declares it: its name, partitions, retention, key and schema."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from pspf.errors import ConfigurationError, EventRejected, NotAvailable, SchemaError
from pspf.events import codec
from pspf.events.decoding import Decoder, make_decoder
from pspf.events.durations import UNIT_MS, Duration, as_ms, describe_ms
from pspf.events.fields import check_field
from pspf.records import NewRecord, Record, check_name, companion_source

_RETENTIONS: Final = {"forever": -1, "consumed": 0}
_MAX_PARTITIONS: Final = 1_024

TopicKey = str | Callable[[Any], Any]
"""A field's name, or a function of the event."""


class DeclaredTopic(str):
    """A topic that `Stream.topic` declared. It is its name, so that it is usable wherever a topic's name is.

    `partitions` None takes the topic as it is. `retention_ms` None leaves it to the broker; -1 is for ever, 0 until all
    groups are done. `key` is what an event is emitted under where no key is passed. `schema` is the model of
    subscriptions that name none, and what is emitted has to fit it.
    """

    __slots__ = ("_decode", "key", "partitions", "retention_ms", "schema")

    partitions: int | None
    retention_ms: int | None
    key: TopicKey | None
    schema: Any
    _decode: Decoder | None

    def __new__(
        cls,
        name: str,
        *,
        partitions: int | None = None,
        retention: Duration | None = None,
        key: TopicKey | None = None,
        schema: Any = None,
    ) -> "DeclaredTopic":
        where = f"topic {name!r:.240}"
        if not isinstance(name, str):
            raise ConfigurationError(f'topic takes a name, not {name!r:.80}: stream.topic("orders", partitions=16)')
        if companion_source(check_name("topic", name)) is not None:
            raise ConfigurationError(f"{where}: -dlq and -late end the names of topics that PSPF makes itself")
        if partitions is not None and (type(partitions) is not int or not 1 <= partitions <= _MAX_PARTITIONS):
            raise ConfigurationError(f"{where}: partitions={partitions!r:.80}; use 1 to {_MAX_PARTITIONS}, or None")
        if key is not None and not (callable(key) or (key and isinstance(key, str))):
            raise ConfigurationError(f"{where}: key={key!r:.80}; use a field's name or a function of the event")
        if isinstance(key, str) and schema is not None:
            check_field(where, schema, key)
        made = super().__new__(cls, name)
        for field, value in (
            ("partitions", partitions),
            ("retention_ms", None if retention is None else parse_retention(where, retention)),
            ("key", key),
            ("schema", schema),
            ("_decode", None if schema is None else make_decoder(schema)),
        ):
            object.__setattr__(made, field, value)
        return made

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a declared topic does not change: {name}")

    def __repr__(self) -> str:
        said = [describe_topic(self.partitions, self.retention_ms)]
        if self.key is not None:
            said.append(f"key {self.key!r}")
        if self.schema is not None:
            said.append(f"schema {getattr(self.schema, '__name__', self.schema)}")
        return f"{self!s} ({', '.join(said)})"

    def __copy__(self) -> "DeclaredTopic":
        return self

    def __deepcopy__(self, memo: object) -> "DeclaredTopic":
        return self

    @property
    def checks_events(self) -> bool:
        """Whether an event has to be looked at when it is emitted."""
        return self.key is not None or self.schema is not None

    def is_same(self, other: "DeclaredTopic") -> bool:
        """Return whether another declaration says the same."""
        names = ("partitions", "retention_ms", "key", "schema")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def finish(self, event: object, record: NewRecord, *, has_key: bool) -> NewRecord:
        """Return the record of an event under the topic's key, unless it was given one.

        Raises:
            EventRejected: It does not fit the schema, or the key can't be told.
        """
        read = self._read(event, record)
        if self.key is None or has_key:
            return record
        return record._replace(raw_key=self._key_of(read))

    def under_key(self, event: object, record: NewRecord) -> NewRecord:
        """Return the record of an event under the topic's key; only for a function it has to fit the schema.

        Raises:
            EventRejected: The key can't be told.
        """
        return record._replace(raw_key=self._key_of(event if isinstance(self.key, str) else self._read(event, record)))

    def check(self, record: NewRecord) -> NewRecord:
        """Return a record that fits the schema.

        Raises:
            EventRejected: It does not.
        """
        self._read(None, record)
        return record

    def _read(self, event: object, record: NewRecord) -> Any:
        """Return an event as subscriptions of the topic read it."""
        if self._decode is None or (isinstance(self.schema, type) and isinstance(event, self.schema)):
            return event
        stored = Record(str(self), 0, 0, record.raw_key, record.value, record.raw_headers, record.timestamp_ms or 0)
        try:
            return self._decode(stored)
        except SchemaError as error:
            name = getattr(self.schema, "__name__", str(self.schema))
            raise EventRejected(f"topic {str(self)!r} takes {name:.80}, and this event is none: {error}") from error

    def _key_of(self, event: Any) -> bytes:
        key = self.key
        if isinstance(key, str):
            found = event.get(key) if isinstance(event, dict) else getattr(event, key, None)
        else:
            assert key is not None
            try:
                found = key(event)
            except Exception as error:  # the boundary of the user's function
                raise EventRejected(
                    f"topic {str(self)!r}: its key= raised {type(error).__name__}: {error}; pass key="
                ) from error
        if found is None:
            how = repr(key) if isinstance(key, str) else "a function, which returned None"
            raise EventRejected(f"topic {str(self)!r} is keyed by {how:.80}, and this event has no such key: pass key=")
        try:
            return codec.text_of("key", found).encode()
        except UnicodeEncodeError as error:
            raise EventRejected(f"key {found!r:.80} can't be written as UTF-8") from error


def find_declared(topic: str, declared: Mapping[str, DeclaredTopic]) -> DeclaredTopic | None:
    """Return the declaration of a topic that events are looked at for, by its name or as it is; None without one."""
    found = topic if isinstance(topic, DeclaredTopic) else declared.get(topic)
    return found if found is not None and found.checks_events else None


def describe_topic(partitions: int | None, retention_ms: int | None) -> str:
    """Return what a declaration says of partitions and retention, for people."""
    number = "partitions as they are" if partitions is None else f"{partitions} partition{'s' * (partitions != 1)}"
    return number if retention_ms is None else f"{number}, retention {describe_retention(retention_ms)}"


def parse_retention(where: str, retention: Duration) -> int:
    """Return a retention in milliseconds: a duration, `forever` (-1) or `consumed` (0).

    Raises:
        ConfigurationError: It is none of these.
        NotAvailable: It is `compact`.
    """
    if isinstance(retention, str) and retention in _RETENTIONS:
        return _RETENTIONS[retention]
    if retention == "compact":
        raise NotAvailable(f"{where}: retention='compact' is not in this version; use a duration, forever or consumed")
    retention_ms = as_ms(where, "retention", retention)
    if not 0 < retention_ms <= 1_000 * 366 * UNIT_MS["d"]:
        raise ConfigurationError(
            f"{where}: retention={retention!r:.80}; use a duration such as 7d or timedelta(days=7), forever, or"
            " consumed (until all groups are done)"
        )
    return retention_ms


def describe_retention(retention_ms: int) -> str:
    """Return a retention as `parse_retention` takes it."""
    return {value: name for name, value in _RETENTIONS.items()}.get(retention_ms) or describe_ms(retention_ms)

"""Names of all keys. Whatever belongs to one partition lies in its stream's hash slot.

A partition's stream is called as its topic (`orders`), or `orders:3` where there are several; other
programs read and write it under that name. PSPF's own keys of it hold the tag `{orders:3}`. The
format is in docs/valkey.md and carries the version `connection.format.FORMAT`.
"""

from dataclasses import dataclass, field
from typing import Final

from pspf.records import DEAD_LETTER_SUFFIX, LATE_SUFFIX

TOPICS_KEY: Final = b"pspf:topics"
"""Hash: topic -> `partitions retention` (see topics.py)."""

DEDUP_RING: Final = 6
"""Buckets of the de-dup window: four full ones, the one that fills, and the one that is emptied next."""


def stream_name(topic: str, partition: int, partitions: int) -> bytes:
    """Return the name of a partition's stream."""
    return (topic if partitions == 1 else f"{topic}:{partition}").encode()


def escape(name: str) -> str:
    """Return a handler's name as it stands in keys, where a colon ends a part."""
    return name.replace("%", "%25").replace(":", "%3A")


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one partition."""

    stream: bytes
    meta: bytes = field(init=False)
    """Hash: what the partition remembers; while it is missing, nothing of PSPF is here (yet, or after a FLUSHALL)."""
    cursors: bytes = field(init=False)
    """Hash: `group NUL handler` -> empty; the handler is empty in shared mode."""
    sessions: bytes = field(init=False)
    """Hash: session -> JSON list of the [group, handler] that it consumes here."""
    floors: bytes = field(init=False)
    """Sorted set: id -> the time at which the lowest floor was there."""

    def __post_init__(self) -> None:
        for name in ("meta", "cursors", "sessions", "floors"):
            object.__setattr__(self, name, self.key(name.encode()))

    def key(self, *parts: bytes) -> bytes:
        """Return `pspf:{stream}:part:part`."""
        return b"pspf:{%b}:%b" % (self.stream, b":".join(parts))

    def live(self, session: str | bytes) -> bytes:
        """String that expires with the session's lease."""
        return self.key(b"live", session if isinstance(session, bytes) else session.encode())

    def dedup(self) -> list[bytes]:
        """Hashes event id -> entry id: the ring of buckets."""
        return [self.key(b"dedup", b"%d" % number) for number in range(DEDUP_RING)]

    def cursor(self, group: str, handler: str | None) -> "CursorKeys":
        """Return the keys of a cursor."""
        return CursorKeys(self, group, handler)


@dataclass(frozen=True, slots=True)
class CursorKeys:
    """The keys of one cursor."""

    partition: PartitionKeys
    group: str
    handler: str | None
    meta: bytes = field(init=False)
    """Hash: epoch token session seq commit_id position passed intent clean last_commit_ms start; of an
    operator also progress watermark_ms."""
    due: bytes = field(init=False)
    """Sorted set of records not done and pending on no worker: id -> due time; +inf while it is held back (ordered),
    -1 where it was given back, -2 where its worker died (shared)."""
    retry: bytes = field(init=False)
    """Hash: id -> packed retry (fields.pack_retry); `+` and id -> packed record, of a replayed one (replayed.py)."""
    lent: bytes = field(init=False)
    """Hash: id -> session, of replayed records being handled (shared): the stream has no entry to be pending."""
    spaces: bytes = field(init=False)
    """Set: the namespaces that have entries."""
    bell: bytes = field(init=False)
    """Stream of one entry, of partition 0 alone: when a member of the handler last came, left or gave back; expires."""

    def __post_init__(self) -> None:
        kinds = (
            ("meta", b"cur"),
            ("due", b"due"),
            ("retry", b"retry"),
            ("lent", b"lent"),
            ("spaces", b"spaces"),
            ("bell", b"bell"),
        )
        for name, kind in kinds:
            object.__setattr__(self, name, self.key(kind))

    @property
    def registry_field(self) -> bytes:
        """The cursor's field in the partition's `cursors`."""
        return f"{self.group}\0{self.handler or ''}".encode()

    @property
    def group_name(self) -> bytes:
        """The consumer group on the stream: the group's own in shared mode, `group/handler` in ordered mode.

        The latter shows where the cursor is, and, when it is missing, that the stream was deleted.
        """
        return (self.group if self.handler is None else f"{self.group}/{escape(self.handler)}").encode()

    def key(self, kind: bytes, *parts: bytes) -> bytes:
        """Return `pspf:{stream}:kind:group:handler[:part]`."""
        return self.partition.key(kind, self.group.encode(), escape(self.handler or "").encode(), *parts)

    def entries(self, namespace: int | bytes) -> bytes:
        """Hash: key -> value of the entries of a namespace (pspf/records.py)."""
        return self.key(b"ent", namespace if isinstance(namespace, bytes) else b"%d" % namespace)

    def order(self, namespace: int | bytes) -> bytes:
        """Sorted set: the keys of a namespace, all with the same score, and so in the order of their bytes."""
        return self.key(b"order", namespace if isinstance(namespace, bytes) else b"%d" % namespace)


def companion_stream(topic: str, suffix: str, partition: int, partitions: int) -> bytes:
    """Return the stream beside a partition's: `orders-dlq`, `orders-dlq:3`."""
    assert suffix in (DEAD_LETTER_SUFFIX, LATE_SUFFIX)
    return stream_name(topic + suffix, partition, partitions)

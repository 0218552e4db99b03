"""Places of durable steps: their results among the entries of a cursor, and the idempotency keys of their calls."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pspf.errors import BackendCorrupt
from pspf.records import EntryKind, EntryPlace, Record, make_namespace

STEPS: Final = make_namespace(EntryKind.STEPS, 0)
"""The namespace of finished steps of the cursor's own topic. A value is a result's JSON.

A key is 16 bytes of offset, then the step's name.
"""
STEPS_BESIDE: Final = make_namespace(EntryKind.STEPS, 1)
"""The namespace of those of the further topics that a handler reads. A key is the topic, a zero byte, then as above."""

_OFFSET_BYTES: Final = 16
_END_OF_TOPIC: Final = b"\0"
_LONGEST_KEY: Final = 255
"""What most services take at most as an idempotency key."""


def step_key(offset: int, name: str) -> bytes:
    """Return the key of a record's step."""
    return offset.to_bytes(_OFFSET_BYTES, "big") + name.encode()


def split_step_key(key: bytes) -> tuple[int, str]:
    """Return the offset of the record and the name of the step.

    Raises:
        BackendCorrupt: It is no such key.
    """
    try:
        if len(key) > _OFFSET_BYTES:
            return int.from_bytes(key[:_OFFSET_BYTES], "big"), key[_OFFSET_BYTES:].decode()
    except UnicodeDecodeError:
        pass  # said below
    raise BackendCorrupt(f"{key!r:.80} is no key of a step")


@dataclass(frozen=True, slots=True)
class StepPlaces:
    """Where the steps of the records of a cursor, and of those beside it, are stored.

    `topics` are those that are read, the cursor's own first.
    """

    topics: Sequence[str]

    @property
    def namespaces(self) -> Sequence[int]:
        """Those that may have steps."""
        return (STEPS,) if len(self.topics) == 1 else (STEPS, STEPS_BESIDE)

    def place_of(self, topic: str, offset: int, name: str) -> EntryPlace:
        """Return the place of a record's step."""
        key = step_key(offset, name)
        return (STEPS, key) if topic == self.topics[0] else (STEPS_BESIDE, topic.encode() + _END_OF_TOPIC + key)

    def split(self, namespace: int, key: bytes) -> tuple[str, int, str]:
        """Return the topic and the offset of the record and the name of the step.

        Raises:
            BackendCorrupt: It is no such key.
        """
        if namespace == STEPS:
            return (self.topics[0], *split_step_key(key))
        topic, _, rest = key.partition(_END_OF_TOPIC)
        return (topic.decode("ascii", "replace"), *split_step_key(rest))


def idempotency_key(record: Record, handler: str, name: str) -> str:
    """Return the same text whenever a handler runs this step of this record, at most 255 ASCII characters.

    It is `topic/record id/handler/step`; where that is too long, its SHA-256 as hex.
    """
    key = "/".join((record.topic, record.id, quote(handler, safe=""), quote(name, safe="")))
    return key if len(key) <= _LONGEST_KEY else hashlib.sha256(key.encode()).hexdigest()

"""Places of durable steps: their results among the entries of a cursor, and the idempotency keys of their calls."""

import hashlib
from typing import Final
from urllib.parse import quote

from pspf.errors import BackendCorrupt
from pspf.records import EntryKind, Record, make_namespace

STEPS: Final = make_namespace(EntryKind.STEPS, 0)
"""The namespace of finished steps. A key is 16 bytes of offset, then the step's name; a value is a result's JSON."""

_OFFSET_BYTES: Final = 16
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


def idempotency_key(record: Record, handler: str, name: str) -> str:
    """Return the same text whenever a handler runs this step of this record, at most 255 ASCII characters.

    It is `topic/record id/handler/step`; where that is too long, its SHA-256 as hex.
    """
    key = "/".join((record.topic, record.id, quote(handler, safe=""), quote(name, safe="")))
    return key if len(key) <= _LONGEST_KEY else hashlib.sha256(key.encode()).hexdigest()

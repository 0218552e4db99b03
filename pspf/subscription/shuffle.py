"""A shuffle: the internal topic of a handler that groups by another key than its records'."""

import re
import zlib
from dataclasses import dataclass
from typing import Final

_REPARTITION_SUFFIX: Final = ".repartition"
_LONGEST_STEM: Final = 160


def repartition_topic(group: str, handler: str) -> str:
    """Return the internal topic of a windowed handler whose grouping key is not its records' key.

    It is `<group>.<handler>.repartition`; what no topic's name can hold is replaced, and a checksum tells apart
    what would be alike then.
    """
    stem = f"{group}.{handler}"
    clean = re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:_LONGEST_STEM]
    return (clean if clean == stem else f"{clean}-{zlib.crc32(stem.encode()):08x}") + _REPARTITION_SUFFIX


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A hop: the records of `source` go through `topic`, of as many partitions, to that of their grouping key."""

    source: str
    topic: str
    partitions: int

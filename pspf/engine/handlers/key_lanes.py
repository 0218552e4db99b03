"""Lanes of a batch: its records divided by key among concurrent tasks or threads."""

from collections.abc import Iterator, Sequence

from pspf.records import Record


class KeyLanes:
    """Deals records, in order, one lane at a time; with `by_key` those of a key are one lane.

    A lane is run from its front by one task or thread, so that no two records of a key run at a time.
    """

    def __init__(self, records: Sequence[Record], *, by_key: bool) -> None:
        lanes: dict[object, list[Record]] = {}
        for record in records:
            lane = record.raw_key if by_key and record.raw_key is not None else record.offset
            lanes.setdefault(lane, []).append(record)
        self._lanes = iter(lanes.values())

    def __iter__(self) -> Iterator[list[Record]]:
        return self

    def __next__(self) -> list[Record]:
        return next(self._lanes)

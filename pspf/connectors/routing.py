"""Partitioning: the partition of a record and the number of partitions of a topic, equal on every broker."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pspf.errors import TopicMismatch
from pspf.records import NewRecord, partition_of


class Router:
    """Picks partitions: by key, and in turn without one. One per broker object."""

    def __init__(self) -> None:
        self._turns: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def route(self, topic: str, partitions: int, records: Sequence[NewRecord]) -> dict[int, Sequence[int]]:
        """Return the indices of `records` that go to each partition, in order."""
        if partitions == 1:
            return {0: range(len(records))}
        turns = self._turns[topic]
        routes: dict[int, list[int]] = {}
        for index, record in enumerate(records):
            # Without a key its event_id chooses, so that a duplicate meets the first one.
            chosen_by = (
                record.raw_key if record.raw_key is not None or record.event_id is None else record.event_id.encode()
            )
            number = next(turns) % partitions if chosen_by is None else partition_of(chosen_by, partitions)
            routes.setdefault(number, []).append(index)
        return dict(routes)


def check_partitions(topic: str, has: int, wanted: int | None) -> None:
    """Raise TopicMismatch where a topic has another number of partitions than is `wanted`; None takes it as it is."""
    if wanted is not None and wanted != has:
        raise TopicMismatch(
            f"topic {topic!r} has {has} partition{'' if has == 1 else 's'}, not {wanted}: keys would change their"
            f" partition\n  leave the number out to take it as it is, or: pspf topics repartition {topic}"
            f" --partitions {wanted} --execute"
        )

"""The log on a server: appending records and reading them."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pspf.connectors.valkey.connection.failures import OutcomeUnknown
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.appends import BYTES_AT_ONCE, RECORDS_AT_ONCE, Outcome, Part, Sender
from pspf.connectors.valkey.log.fields import decode_entries, format_entry_id
from pspf.connectors.valkey.log.keys import PartitionKeys
from pspf.connectors.valkey.log.topics import Topic
from pspf.errors import UNKNOWN, BackendUnavailable, EmitIncomplete, EmitUnknown
from pspf.records import Appended, NewRecord, Record

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

_TRIES: Final = 3
_FEW: Final = 4
"""So many records are never too large for one script."""
_PAGE: Final = 1_000


class Log:
    """Appends to topics, each call all or none per partition."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._lanes = core.pool.lanes("appends")
        self._senders: dict[Lane, Sender] = {}
        """The sender of each server's lane."""

    async def append(self, name: str, records: Sequence[NewRecord]) -> list[Appended]:
        """Store records; return their places in order. The caller has checked them. Errors: see `Broker.append`."""
        topic = self._core.topics.find_known(name)
        steps = _split(records)
        if topic is not None and topic.count == 1 and len(steps) == 1:
            outcome = await self._append_at_once(topic, records)
            if outcome is not None:
                return outcome
        places: list[Appended | None] = [None] * len(records)
        for step in steps:
            await self._append_step(name, records, step, places)
        return places  # type: ignore[return-value]  # none is missing

    async def _append_at_once(self, topic: Topic, records: Sequence[NewRecord]) -> list[Appended] | None:
        """Append to the only partition of a topic; None where it is not there."""
        try:
            outcome = await self._sender_of(topic.partitions[0]).send_one(Part(topic.partitions[0], 0, 1, records))
        except OutcomeUnknown as error:
            raise _unknown(topic.name, records, error) from error
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            self._core.topics.forget(topic.name)
        return outcome

    async def _append_step(
        self, name: str, records: Sequence[NewRecord], step: Sequence[int], places: list[Appended | None]
    ) -> None:
        """Store the records at the indices `step`, and fill in their places."""
        left = step
        try:
            for _ in range(_TRIES):
                topic = await self._core.topics.ensure(name)
                if await self._append_to(topic, records, left, places):
                    return
                # The topic was deleted, or all was flushed, since we saw it.
                self._core.topics.forget(name)
                left = [index for index in left if places[index] is None]
        except OutcomeUnknown as error:
            raise _incomplete(places, _unknown(name, records, error), unknown=step) from error
        raise _incomplete(places, BackendUnavailable(f"{self._core.connector.name}: topic {name!r} vanishes"))

    async def _append_to(
        self, topic: Topic, records: Sequence[NewRecord], indices: Sequence[int], places: list[Appended | None]
    ) -> bool:
        """Append the records at `indices` and fill in their places; False where partitions were not there."""
        chosen = records if len(indices) == len(records) else [records[index] for index in indices]
        routes = self._core.router.route(topic.name, topic.count, chosen)
        parts = [
            Part(
                topic.partitions[number],
                number,
                topic.count,
                chosen if len(route) == len(chosen) else [chosen[at] for at in route],
            )
            for number, route in routes.items()
        ]
        is_whole = True
        errors: list[Exception] = []
        for route, outcome in zip(routes.values(), await self._send(parts), strict=True):
            if outcome is None:
                is_whole = False
            elif isinstance(outcome, Exception):
                errors.append(outcome)
            elif len(outcome) == len(places):
                places[:] = outcome
            else:
                for at, place in zip(route, outcome, strict=True):
                    places[indices[at]] = place
        if errors:
            raise _incomplete(places, errors[0])
        return is_whole

    async def close(self) -> None:
        """Wait for appends that are on their way."""
        for sender in self._senders.values():
            await sender.close()

    def _sender_of(self, keys: PartitionKeys) -> Sender:
        lane = self._lanes.lane_for(keys.stream)
        sender = self._senders.get(lane)
        if sender is None:
            sender = self._senders[lane] = Sender(self._core, lane)
        return sender

    async def _send(self, parts: Sequence[Part]) -> list[Outcome]:
        """Return what became of each part. Errors as in `Sender.send`; of several servers' the first."""
        senders = [self._sender_of(part.keys) for part in parts]
        different = list(dict.fromkeys(senders))
        if len(different) == 1:
            return await different[0].send(parts)
        places = [[index for index, sender in enumerate(senders) if sender is each] for each in different]
        sent = await asyncio.gather(
            *(each.send([parts[index] for index in mine]) for each, mine in zip(different, places, strict=True))
        )
        outcomes: list[Outcome] = [None] * len(parts)
        for mine, some in zip(places, sent, strict=True):
            for index, outcome in zip(mine, some, strict=True):
                outcomes[index] = outcome
        return outcomes


def _unknown(name: str, records: Sequence[NewRecord], error: Exception) -> EmitUnknown:
    return EmitUnknown(f"{len(records)} for {name!r} may be stored or not: {error}")


def _split(records: Sequence[NewRecord]) -> list[range]:
    """Return the indices of records in steps that one script may append: a server does nothing else meanwhile."""
    steps: list[range] = []
    begin = size_bytes = 0
    for index, record in enumerate(records if len(records) > _FEW else ()):
        size_bytes += len(record[1])
        if index > begin and (index - begin >= RECORDS_AT_ONCE or size_bytes > BYTES_AT_ONCE):
            steps.append(range(begin, index))
            begin, size_bytes = index, len(record[1])
    steps.append(range(begin, len(records)))
    return steps


def _incomplete(places: Sequence[Appended | None], error: Exception, unknown: Sequence[int] = ()) -> Exception:
    """Return what to raise for an error: itself where nothing is known to be stored."""
    if all(place is None for place in places):
        return error
    ids: list[object] = [None if place is None else place.id for place in places]
    for index in unknown:
        if ids[index] is None:
            ids[index] = UNKNOWN
    incomplete = EmitIncomplete(str(error), ids)
    incomplete.__cause__ = error
    return incomplete


async def read_range(
    core: "Core", topic: Topic, partition: int, offset: int, max_records: int, *, last: bytes = b"+"
) -> list[Record]:
    """Return the records from `offset` on, in order, in as many steps as it takes."""
    stream = topic.partition(partition).stream
    start = format_entry_id(max(0, offset))
    records: list[Record] = []
    while len(records) < max_records:
        count = min(_PAGE, max_records - len(records))
        entries = await core.lane_for(stream).call("XRANGE", stream, start, last, "COUNT", count)
        records += decode_entries(topic.name, partition, entries)
        if len(entries) < count:
            break
        start = b"(" + entries[-1][0]
    return records

"""The log: appending, coalesced over tasks, and reading."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pspf.connectors.valkey.failures import OutcomeUnknown
from pspf.connectors.valkey.fields import decode_entries, format_entry_id, pack_records, parse_entry_id
from pspf.connectors.valkey.keys import PartitionKeys
from pspf.connectors.valkey.scripts import Argument, ScriptCall, load_script
from pspf.connectors.valkey.topics import Topic
from pspf.connectors.valkey.wire import Lane
from pspf.errors import BackendUnavailable, EmitIncomplete, EmitUnknown
from pspf.records import Appended, NewRecord, Record, partition_of

if TYPE_CHECKING:
    from pspf.connectors.valkey.core import Core

_APPEND: Final = load_script("append")
_APPEND_ONCE: Final = load_script("append_once")
_TRIES: Final = 3
_PAGE: Final = 1_000
_CALLS_AT_ONCE: Final = 1_000
_BYTES_AT_ONCE: Final = 4 << 20
_new: Final[Any] = tuple.__new__  # two thirds of the price of a NamedTuple's own constructor


class Router:
    """Picks partitions: by key, and in turn without one."""

    def __init__(self) -> None:
        self._turns: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def route(self, topic: Topic, records: Sequence[NewRecord]) -> dict[int, Sequence[int]]:
        """Return the indices of `records` that go to each partition, in order."""
        count = topic.count
        if count == 1:
            return {0: range(len(records))}
        turns = self._turns[topic.name]
        routes: dict[int, list[int]] = {}
        for index, record in enumerate(records):
            # Without a key its event_id chooses, so that a duplicate meets the first one.
            chosen_by = (
                record.raw_key if record.raw_key is not None or record.event_id is None else record.event_id.encode()
            )
            number = next(turns) % count if chosen_by is None else partition_of(chosen_by, count)
            routes.setdefault(number, []).append(index)
        return dict(routes)


class Log:
    """Appends and reads. What several tasks append at a moment travels together, each call atomic by itself."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._lane = core.open_lane("appends")
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def append(self, name: str, records: Sequence[NewRecord]) -> list[Appended]:
        """Store records; return their places in order. The caller has checked them. Errors: see `Broker.append`."""
        places: list[Appended | None] = [None] * len(records)
        left: Sequence[int] = range(len(records))
        try:
            for _ in range(_TRIES):
                topic = await self._core.topics.ensure(name)
                if await self._append_to(topic, records, left, places):
                    return places  # type: ignore[return-value]  # none is missing
                # The topic was deleted, or all was flushed, since we saw it.
                self._core.topics.forget(name)
                left = [index for index in left if places[index] is None]
        except OutcomeUnknown as error:
            raise EmitUnknown(f"{len(records)} for {name!r} may be stored or not: {error}") from error
        raise _incomplete(places, BackendUnavailable(f"{self._lane.name}: topic {name!r} vanishes while it is written"))

    async def _append_to(
        self, topic: Topic, records: Sequence[NewRecord], indices: Sequence[int], places: list[Appended | None]
    ) -> bool:
        """Append the records at `indices` and fill in their places; False where partitions were not there."""
        chosen = records if len(indices) == len(records) else [records[index] for index in indices]
        routes = list(self._core.router.route(topic, chosen).items())
        if len(routes) == 1:
            parts = [(routes[0][0], chosen)]
        else:
            parts = [(number, [chosen[at] for at in route]) for number, route in routes]
        calls = [self._make_call(topic, number, part) for number, part in parts]
        replies = await self._send(calls, [topic.partitions[number] for number, _ in parts])
        is_whole = True
        errors: list[Exception] = []
        for (number, part), (_, route), reply in zip(parts, routes, replies, strict=True):
            if isinstance(reply, Exception):
                errors.append(reply)
            elif reply == 0:
                is_whole = False
            elif len(part) == len(places):
                places[:] = _places(number, part, reply)
            else:
                for at, place in zip(route, _places(number, part, reply), strict=True):
                    places[indices[at]] = place
        if errors:
            raise _incomplete(places, errors[0])
        return is_whole

    def _make_call(self, topic: Topic, number: int, records: Sequence[NewRecord]) -> ScriptCall:
        keys = topic.partitions[number]
        shapes, parts = pack_records(records)
        ids: list[Argument] = [event_id for event_id in [record[4] for record in records] if event_id is not None]
        head: list[Argument] = [self._core.now(), topic.count, shapes]
        limits = self._core.limits
        if not ids or limits.dedup_max_ids == 0 or limits.dedup_window_ms == 0:
            return ScriptCall(_APPEND, (keys.stream, keys.meta), head + parts)
        marks = bytes(48 if record[4] is None else 49 for record in records)
        head += [marks, max(1, limits.dedup_max_ids // 4), limits.dedup_window_ms]
        return ScriptCall(_APPEND_ONCE, (keys.stream, keys.meta, *keys.dedup()), head + ids + parts)

    async def _send(self, calls: list[ScriptCall], grown: list[PartitionKeys]) -> list[Any]:
        """Send calls: at once where nothing is on its way, else together with those of other tasks that wait."""
        if not self._lane.is_busy:
            return await self._exchange(calls, grown)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(calls, grown, loop.create_future())
        if self._sender is None or self._sender.done() or self._sender.get_loop() is not loop:
            self._waiting = [waiting]
            self._sender = loop.create_task(self._send_all(), name="pspf appends")
        else:
            self._waiting.append(waiting)
        return await waiting.replies  # a caller that is cancelled takes nothing back: the others go on

    async def _send_all(self) -> None:
        while self._waiting:
            await self._lane.wait_for_turn()  # so that what comes meanwhile goes along
            sent = self._take_some()
            calls = [call for waiting in sent for call in waiting.calls]
            try:
                replies = await self._exchange(calls, [keys for waiting in sent for keys in waiting.grown])
            except Exception as error:  # the boundary of the senders: each gets the error
                for waiting in sent:
                    waiting.fail(error)
                continue
            at = 0
            for waiting in sent:
                waiting.succeed(replies[at : at + len(waiting.calls)])
                at += len(waiting.calls)

    async def _exchange(self, calls: list[ScriptCall], grown: list[PartitionKeys]) -> list[Any]:
        """Send calls and, where its turn has come, the trimming of what they append to, whose reply is no caller's."""
        trims: list[tuple[PartitionKeys, ScriptCall]] = []
        for keys in {keys.stream: keys for keys in grown}.values():
            call = self._core.trimmer.make_call_if_due(keys)
            if call is not None:
                trims.append((keys, call))
        if not trims:
            return await self._lane.run_many(calls)
        replies = await self._lane.run_many([*calls, *[call for _, call in trims]])
        for (keys, _), reply in zip(trims, replies[len(calls) :], strict=True):
            if not isinstance(reply, Exception):
                self._core.trimmer.settle(keys, reply)
        return replies[: len(calls)]

    def _take_some(self) -> "list[_Waiting]":
        """Take what fits one send: it is packed and answered as a whole."""
        if len(self._waiting) == 1:
            taken, self._waiting = self._waiting, []
            return taken
        count = size_bytes = 0
        for waiting in self._waiting:
            if count and (count > _CALLS_AT_ONCE or size_bytes > _BYTES_AT_ONCE):
                break
            count += 1
            size_bytes += waiting.size_bytes
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def close(self) -> None:
        """Wait for what is under way."""
        sender, self._sender = self._sender, None
        if sender is not None and sender.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([sender])


class _Waiting:
    """Calls of one append, and the future of their replies."""

    __slots__ = ("calls", "grown", "replies")

    def __init__(self, calls: list[ScriptCall], grown: list[PartitionKeys], replies: asyncio.Future[list[Any]]) -> None:
        self.calls = calls
        self.grown = grown
        self.replies = replies

    @property
    def size_bytes(self) -> int:
        return sum(len(part) for call in self.calls for part in call.arguments if isinstance(part, bytes))

    def succeed(self, replies: list[Any]) -> None:
        if not self.replies.done():
            self.replies.set_result(replies)

    def fail(self, error: Exception) -> None:
        if not self.replies.done():
            self.replies.set_exception(error)


def _incomplete(places: Sequence[Appended | None], error: Exception) -> Exception:
    """Return what to raise for an error: itself where nothing was stored."""
    if all(place is None for place in places):
        return error
    incomplete = EmitIncomplete(str(error), [None if place is None else place.id for place in places])
    incomplete.__cause__ = error
    return incomplete


def _places(number: int, records: Sequence[NewRecord], reply: Any) -> list[Appended]:
    """Return the places of records from the reply of a script."""
    if isinstance(reply, bytes):
        first = parse_entry_id(reply)
        return [_new(Appended, (number, offset, False)) for offset in range(first, first + len(records))]
    offset = parse_entry_id(reply[0]) if reply[0] else 0
    duplicates = {index: parse_entry_id(raw_id) for index, raw_id in zip(reply[1::2], reply[2::2], strict=True)}
    places: list[Appended] = []
    for index in range(len(records)):
        known = duplicates.get(index)
        if known is None:
            places.append(_new(Appended, (number, offset, False)))
            offset += 1
        else:
            places.append(_new(Appended, (number, known, True)))
    return places


async def read_range(
    lane: Lane, topic: Topic, partition: int, offset: int, max_records: int, *, last: bytes = b"+"
) -> list[Record]:
    """Return the records from `offset` on, in order, in as many steps as it takes."""
    stream = topic.partition(partition).stream
    start = format_entry_id(max(0, offset))
    records: list[Record] = []
    while len(records) < max_records:
        count = min(_PAGE, max_records - len(records))
        entries = await lane.call("XRANGE", stream, start, last, "COUNT", count)
        records += decode_entries(topic.name, partition, entries)
        if len(entries) < count:
            break
        start = b"(" + entries[-1][0]
    return records

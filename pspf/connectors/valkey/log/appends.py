"""Batching of appends: what several tasks append at a moment travels together.

Records for one partition go in one script call, all or none of them; no caller learns more than that
their own records are stored, or are not, or may be.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pspf.connectors.valkey.connection.failures import OutcomeUnknown
from pspf.connectors.valkey.connection.scripts import Argument, ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.fields import pack_records, parse_entry_id
from pspf.connectors.valkey.log.keys import PartitionKeys
from pspf.errors import BackendUnavailable
from pspf.records import Appended, NewRecord

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

_APPEND: Final = load_script("append")
_APPEND_ONCE: Final = load_script("append_once")
_event_id: Final = itemgetter(4)
RECORDS_AT_ONCE: Final = 2_000
BYTES_AT_ONCE: Final = 1 << 20
_new: Final[Any] = tuple.__new__  # two thirds of the price of a NamedTuple's own constructor


class Part(NamedTuple):
    """Records for one partition of a topic, which is known to have `partitions`."""

    keys: PartitionKeys
    number: int
    partitions: int
    records: Sequence[NewRecord]


Outcome = list[Appended] | Exception | None
"""What became of a part: the places of its records, an error, or None where the partition is not there."""


class Sender:
    """Sends parts by one lane: at once where nothing is on its way, else together with those of tasks that wait."""

    def __init__(self, core: "Core", lane: Lane) -> None:
        self._core = core
        self._lane = lane
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}

    async def send_one(self, part: Part) -> Outcome:
        """Return what became of one part: at once where nothing is on its way. Errors: as in `send`, or its own."""
        if self._lane.is_busy or self._core.trimmer.is_due(part.keys):
            return (await self.send([part]))[0]
        call = self._make_call(part)
        return _read_outcome(part, await self._lane.run(call.script, call.keys, call.arguments))

    async def send(self, parts: Sequence[Part]) -> list[Outcome]:
        """Return what became of each part.

        Raises:
            OutcomeUnknown: They may be stored or not.
            BackendUnavailable: None of them is stored.
        """
        if not self._lane.is_busy:
            return await self._exchange(parts)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(parts, loop.create_future())
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue([])
            queue.task = loop.create_task(self._send_all(loop, queue), name="pspf appends")
            queue.task.add_done_callback(lambda task: self._answer_all(loop, queue))
        queue.waiting.append(waiting)
        return await waiting.outcomes  # a caller that is cancelled takes nothing back: the others go on

    async def _send_all(self, loop: asyncio.AbstractEventLoop, queue: "_Queue") -> None:
        try:
            await self._send_queue(queue)
        finally:
            self._queues.pop(loop, None)

    def _answer_all(self, loop: asyncio.AbstractEventLoop, queue: "_Queue") -> None:
        """Answer those that still wait: somebody has cancelled the task that was to send what they append."""
        if self._queues.get(loop) is queue:  # it was never begun
            del self._queues[loop]
        name = self._core.connector.name
        for waiting in queue.sent:
            waiting.fail(OutcomeUnknown(f"{name}: the task that appends was cancelled while this was on its way"))
        for waiting in queue.waiting:
            waiting.fail(BackendUnavailable(f"{name}: the task that appends was cancelled before this was sent"))

    async def _send_queue(self, queue: "_Queue") -> None:
        while queue.waiting:
            await self._lane.wait_for_turn()  # so that what comes meanwhile goes along
            sent = queue.sent = queue.take_some()
            try:
                outcomes = await self._exchange([part for waiting in sent for part in waiting.parts])
            except Exception as error:  # the boundary of the senders: each gets the error
                for waiting in sent:
                    waiting.fail(error)
                continue
            at = 0
            for waiting in sent:
                waiting.succeed(outcomes[at : at + len(waiting.parts)])
                at += len(waiting.parts)

    async def _exchange(self, parts: Sequence[Part]) -> list[Outcome]:
        merged = [(part, [index]) for index, part in enumerate(parts)] if len(parts) == 1 else _merge(parts)
        calls = [self._make_call(part) for part, _ in merged]
        # A due trim is sent along; no caller waits for its reply.
        trims: list[tuple[PartitionKeys, ScriptCall]] = []
        for part, _ in merged:
            trim = self._core.trimmer.make_call_if_due(part.keys)
            if trim is not None:
                trims.append((part.keys, trim))
        replies = await self._lane.run_many(calls + [trim for _, trim in trims])
        for (keys, _), reply in zip(trims, replies[len(calls) :], strict=True):
            if not isinstance(reply, Exception):
                self._core.trimmer.settle(keys, reply)
        if len(parts) == 1:
            return [_read_outcome(parts[0], replies[0])]
        outcomes: list[Outcome] = [None] * len(parts)
        for (part, indices), reply in zip(merged, replies, strict=False):
            outcome = _read_outcome(part, reply)
            at = 0
            for index in indices:
                end = at + len(parts[index].records)
                outcomes[index] = outcome[at:end] if isinstance(outcome, list) else outcome
                at = end
        return outcomes

    def _make_call(self, part: Part) -> ScriptCall:
        keys, limits = part.keys, self._core.limits
        shapes, arguments = pack_records(part.records)
        head: list[Argument] = [self._core.now(), part.partitions, shapes]
        marked = list(map(_event_id, part.records))
        ids: list[Argument] = [event_id for event_id in marked if event_id is not None]
        if not ids or limits.dedup_max_ids == 0 or limits.dedup_window_ms == 0:
            return ScriptCall(_APPEND, (keys.stream, keys.meta), head + arguments)
        is_plain = len(arguments) == len(marked) == len(set(ids))
        head += [
            b"" if is_plain else bytes([48 if event_id is None else 49 for event_id in marked]),
            max(1, limits.dedup_max_ids // 4),
            limits.dedup_window_ms,
        ]
        return ScriptCall(_APPEND_ONCE, (keys.stream, keys.meta, *keys.dedup()), head + ids + arguments)

    async def close(self) -> None:
        """Wait for appends that are on their way."""
        queue = self._queues.get(asyncio.get_running_loop())
        if queue is not None and queue.task is not None:
            await asyncio.wait([queue.task])


@dataclass(slots=True)
class _Queue:
    """The appends of one event loop that wait, and the task that sends them."""

    waiting: "list[_Waiting]"
    sent: "Sequence[_Waiting]" = ()
    """What was sent last; it may have its outcome."""
    task: asyncio.Task[None] | None = None

    def take_some(self) -> "list[_Waiting]":
        """Take what fits one send: a server does nothing else meanwhile."""
        taken = records = size_bytes = 0
        for waiting in self.waiting:
            if taken and (records > RECORDS_AT_ONCE or size_bytes > BYTES_AT_ONCE):
                break
            taken += 1
            for part in waiting.parts:
                records += len(part.records)
                size_bytes += sum([len(record[1]) for record in part.records])
        sent, self.waiting = self.waiting[:taken], self.waiting[taken:]
        return sent


class _Waiting:
    """The parts of one append, and the future of what becomes of them."""

    __slots__ = ("outcomes", "parts")

    def __init__(self, parts: Sequence[Part], outcomes: asyncio.Future[list[Outcome]]) -> None:
        self.parts = parts
        self.outcomes = outcomes

    def succeed(self, outcomes: list[Outcome]) -> None:
        if not self.outcomes.done():
            self.outcomes.set_result(outcomes)

    def fail(self, error: Exception) -> None:
        if not self.outcomes.done():
            self.outcomes.set_exception(error)


def _merge(parts: Sequence[Part]) -> list[tuple[Part, list[int]]]:
    """Return one part for each partition, and which of `parts` it is made of."""
    groups: dict[tuple[bytes, int], list[int]] = {}
    for index, part in enumerate(parts):
        groups.setdefault((part.keys.stream, part.partitions), []).append(index)
    merged: list[tuple[Part, list[int]]] = []
    for indices in groups.values():
        first = parts[indices[0]]
        records = [record for index in indices for record in parts[index].records]
        merged.append((Part(first.keys, first.number, first.partitions, records), indices))
    return merged


def _read_outcome(part: Part, reply: Any) -> Outcome:
    if isinstance(reply, Exception):
        return reply
    if reply == 0:
        return None
    number, count = part.number, len(part.records)
    if isinstance(reply, bytes):
        first = parse_entry_id(reply)
        return [_new(Appended, (number, offset, False)) for offset in range(first, first + count)]
    offset = parse_entry_id(reply[0]) if reply[0] else 0
    duplicates = {index: parse_entry_id(raw_id) for index, raw_id in zip(reply[1::2], reply[2::2], strict=True)}
    places: list[Appended] = []
    for index in range(count):
        known = duplicates.get(index)
        if known is None:
            places.append(_new(Appended, (number, offset, False)))
            offset += 1
        else:
            places.append(_new(Appended, (number, known, True)))
    return places

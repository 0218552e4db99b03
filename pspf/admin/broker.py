"""Broker queries of the admin: lag, dead letters, state. They run only when a request asks."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

from pspf.admin.http_error import HttpError, trouble_of
from pspf.admin.letters import Digest, read_digest, read_letter
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import CursorInfo, StateEntry, StoredDeadLetter, TopicInfo
from pspf.connectors.letters import replay_batch
from pspf.connectors.urls import make_broker
from pspf.connectors.views import GroupView, LetterFilter, as_json_partition, names_of
from pspf.errors import BackendUnavailable, NotFound, PSPFError
from pspf.observability.snapshots import HandlerShape
from pspf.records import Cursor, parse_id

_ANSWER_S: Final = 4.0
_FRESH_S: Final = 1.0
_READS: Final = 16
"""How many partitions are looked into at a time."""
_REPLAY_BATCH: Final = 500
MAX_REPLAYED: Final = 10_000
_HOP: Final = ".repartition"
"""The end of an internal topic between a windowed handler's records and its windows."""


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How far a group's handler is behind.

    `seconds` is the age of the oldest record that is not done in each partition, by number, None where
    that is not known; `watermark_delay_ms` how far the slowest watermark is behind the clock.
    """

    view: GroupView
    shape: HandlerShape | None
    seconds: Mapping[int, float | None]
    watermark_delay_ms: int | None

    @property
    def worst_seconds(self) -> float | None:
        """The worst partition's; None where one is not known."""
        ages = list(self.seconds.values())
        return None if None in ages else max((age for age in ages if age is not None), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Return what /lag has for it."""
        delay_ms = self.watermark_delay_ms
        return {
            "group": self.view.group,
            "topic": self.view.topic,
            "handler": self.view.handler,
            "ordering": self.view.ordering,
            "partitions": [
                {**as_json_partition(cursor), "lag_seconds": self.seconds[cursor.cursor.partition]}
                for cursor in self.view.cursors
            ],
            "lag": self.view.lag,
            "pending": self.view.pending,
            "lag_seconds": self.worst_seconds,
            "watermark_delay_seconds": None if delay_ms is None else delay_ms / 1000,
        }


@dataclass(frozen=True, slots=True)
class Lag:
    """The groups of the worker's app, as read at `read_at` (monotonic seconds)."""

    groups: Sequence[GroupLag]
    read_at: float = field(default_factory=time.monotonic)


class BrokerDesk:
    """The broker through a connection of the admin's own, opened on first use.

    Every method raises Trouble where the broker is away, or not to be seen from here.
    """

    def __init__(self, secret_url: str | None, name: str) -> None:
        self.name = name
        self.is_connected: bool | None = None
        """Whether it answered the last time, None before the first."""
        self.error: str | None = None
        self._broker: Broker | None = None if secret_url is None else make_broker(secret_url)
        self._measuring = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._lag: Lag | None = None
        self._failed: tuple[float, HttpError] | None = None
        self._topics: tuple[float, Sequence[TopicInfo]] | None = None
        self._pinging = asyncio.Lock()
        self._pinged: tuple[float, HttpError | None] | None = None
        self._digests: dict[LetterFilter, tuple[float, Digest]] = {}

    @asynccontextmanager
    async def ask(self) -> AsyncIterator[Broker]:
        """Give the broker, for what takes a few seconds at most; its errors become Trouble."""
        if self._broker is None:
            raise HttpError(409, f"{self.name} lives in the worker's process and can't be seen from here")
        try:
            async with asyncio.timeout(_ANSWER_S):
                if not self._broker.is_there:  # opening it would make an empty one
                    raise BackendUnavailable(f"{self.name}: there is no such file")
                await self._broker.connect()
                yield self._broker
        except (PSPFError, TimeoutError) as error:
            trouble = trouble_of(error)
            if trouble.status == 503:
                self.is_connected, self.error = False, trouble.text
            raise trouble from error
        self.is_connected, self.error = True, None

    @asynccontextmanager
    async def ask_much(self) -> AsyncIterator[Broker]:
        """Give the broker for an answer that may be large: one request at a time; one that waits too long fails."""
        async with self.ask() as broker, self._reading:
            yield broker

    async def find_trouble(self) -> HttpError | None:
        """Return why the broker does not answer, None where it does; at most a second old."""
        if self._broker is None:
            return None
        async with self._pinging:
            if self._pinged is None or time.monotonic() - self._pinged[0] > _FRESH_S:
                trouble = None
                try:
                    async with self.ask() as broker:
                        await broker.ping()
                except HttpError as found:
                    trouble = found
                self._pinged = (time.monotonic(), trouble)
            return self._pinged[1]

    async def close(self) -> None:
        """Close the connection."""
        if self._broker is not None:
            await self._broker.close()

    # Lag and topics

    async def read_lag(self, shapes: Sequence[HandlerShape]) -> Lag:
        """Return the lag of these handlers' groups, at most a second old; asks that come together share a read."""
        asked_at = time.monotonic()
        async with self._measuring:
            if self._failed is not None and self._failed[0] >= asked_at:
                raise self._failed[1]  # a broker that is away would be waited for once for each of them
            if self._lag is None or time.monotonic() - self._lag.read_at > _FRESH_S:
                try:
                    async with self.ask() as broker:
                        self._lag = await _read_lag(broker, shapes)
                except HttpError as trouble:
                    self._failed = (time.monotonic(), trouble)
                    raise
            return self._lag

    async def read_topics(self) -> Mapping[str, TopicInfo]:
        """Return all topics by name, at most a second old."""
        known = self._topics
        if known is None or time.monotonic() - known[0] > _FRESH_S:
            async with self.ask() as broker:
                known = self._topics = (time.monotonic(), await broker.list_topics())
        return {info.topic: info for info in known[1]}

    # State

    async def find_state(
        self, handler: str, *, group: str | None, key: str | None, name: str | None, max_entries: int
    ) -> Sequence[StateEntry]:
        """Return what a handler remembers; `handler` may be the last part of its name. Trouble 404, 409: no one."""
        async with self.ask_much() as broker:
            names = {info.cursor.handler for info in await broker.list_cursors()} - {None}
            fitting = {each for each in names if each is not None and handler in (each, each.rpartition(".")[2])}
            if not fitting:
                raise HttpError(404, f"no ordered handler {handler!r} in {self.name}")
            if handler not in fitting and len(fitting) > 1:
                raise HttpError(409, f"several handlers are called {handler!r}: {', '.join(sorted(fitting))}")
            chosen = handler if handler in fitting else fitting.pop()
            return await broker.list_state(
                handler=chosen,
                group=group,
                key=None if key is None else key.encode(),
                name=name,
                max_entries=max_entries,
            )

    # Dead letters

    async def read_digest(self, choice: LetterFilter) -> Digest:
        """Return the digest of the dead letters, at most a second old. Trouble 404: there is no such topic."""
        async with self.ask_much() as broker:
            now = time.monotonic()
            self._digests = {key: kept for key, kept in self._digests.items() if now - kept[0] <= _FRESH_S}
            if choice not in self._digests:
                digest = await read_digest(broker, choice)
                self._digests[choice] = (time.monotonic(), digest)
            return self._digests[choice][1]

    async def read_letter(self, topic: str, letter_id: str) -> StoredDeadLetter:
        """Return one dead letter, whole. Trouble 404: it is not there."""
        async with self.ask_much() as broker:
            return await read_letter(broker, topic, letter_id)

    async def replay(self, choice: LetterFilter, *, to: str | None) -> tuple[int, int]:
        """Give dead letters a new start, oldest first; return how many, and how many are left. Errors as above."""
        async with self.ask_much() as broker:
            letters = await _find_letters(broker, choice)
        done, left = 0, list[PSPFError]()
        for start in range(0, min(len(letters), MAX_REPLAYED), _REPLAY_BATCH):
            async with self.ask() as broker:
                batch = letters[start : min(start + _REPLAY_BATCH, MAX_REPLAYED)]
                replayed, errors = await replay_batch(broker, batch, to)
            done += replayed
            left += errors
        self._lag = None
        self._digests.clear()
        if left and not done:
            raise left[0]
        return done, max(0, len(letters) - MAX_REPLAYED) + len(left)


async def _find_letters(broker: Broker, choice: LetterFilter) -> Sequence[StoredDeadLetter]:
    for letter_id in choice.ids:
        parse_id(letter_id.rpartition("/")[2])
    letters = await broker.list_dead_letters(topic=choice.source, group=choice.group)
    if choice.source is not None and not letters:
        topics = {info.topic for info in await broker.list_topics()}
        if choice.source not in topics:
            raise NotFound(f"no topic {choice.source!r} in {broker.name}")
    missing = set(choice.ids).difference(*(names_of(letter) for letter in letters))
    if missing:
        raise NotFound(f"no dead letter {', '.join(sorted(missing))}")
    return [letter for letter in letters if choice.fits(letter)]


async def _read_lag(broker: Broker, shapes: Sequence[HandlerShape]) -> Lag:
    known = {
        (shape.group, topic, shape.cursor_handler): replace(shape, topic=topic)
        for shape in shapes
        for topic in shape.topics
    }
    windowed = {(shape.group, shape.handler): shape for shape in shapes if shape.window is not None}

    def shape_of(cursor: Cursor) -> HandlerShape | None:
        found = known.get((cursor.group, cursor.topic, cursor.handler))
        if found is None and cursor.topic.endswith(_HOP):
            behind = windowed.get((cursor.group, cursor.handler or ""))
            found = None if behind is None else replace(behind, topic=cursor.topic)
        return found

    def place(info: CursorInfo) -> tuple[str, str, str]:
        return info.cursor.group, info.cursor.topic, info.cursor.handler or ""

    now_ms = time.time_ns() // 1_000_000
    ours = [info for info in await broker.list_cursors() if shape_of(info.cursor) is not None]
    gate = asyncio.Semaphore(_READS)

    async def age_of(info: CursorInfo) -> float | None:
        async with gate:
            return await _read_age(broker, info, now_ms)

    ages = dict(zip((info.cursor for info in ours), await asyncio.gather(*map(age_of, ours)), strict=True))
    groups = []
    for (group, topic, handler), found in groupby(
        sorted(ours, key=lambda i: (place(i), i.cursor.partition)), key=place
    ):
        cursors = list(found)
        watermarks = [info.watermark_ms for info in cursors if info.watermark_ms is not None]
        groups.append(
            GroupLag(
                GroupView(group, topic, handler or None, cursors, ()),
                shape_of(cursors[0].cursor),
                {info.cursor.partition: ages[info.cursor] for info in cursors},
                max(0, now_ms - min(watermarks)) if watermarks else None,
            )
        )
    return Lag(groups)


async def _read_age(broker: Broker, info: CursorInfo, now_ms: int) -> float | None:
    """Return for how many seconds the oldest record that is not done has waited; None: not known."""
    if info.lag == 0:
        return 0.0
    offset = 0 if info.committed is None else info.committed + 1
    records = await broker.read(info.cursor.topic, info.cursor.partition, offset=offset, max_records=1)
    if not records:
        return 0.0 if info.lag is None else None
    return max(0, now_ms - records[0].timestamp_ms) / 1000

"""Stored windows, read from the broker in bounded pages."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StoredOperator
from pspf.engine.operators.registry import read_view
from pspf.records import Cursor, EntryKind, EntryPlace, kind_of
from pspf.windowing.event_time import encode_key
from pspf.windowing.inspect import StoredWindow, View


@dataclass(frozen=True, slots=True)
class WindowedCursor:
    """A cursor that has windows, and how they are read."""

    stored: StoredOperator
    view: View

    @property
    def cursor(self) -> Cursor:
        """The cursor."""
        return self.stored.cursor

    def as_json(self) -> dict[str, Any]:
        """Return what `windows list --json` has for it."""
        cursor = self.cursor
        return {
            "group": cursor.group,
            "topic": cursor.topic,
            "handler": cursor.handler,
            "partition": cursor.partition,
            "window": str(self.view.window),
            "watermark_ms": self.stored.watermark_ms,
        }

    def as_json_window(self, window: StoredWindow) -> dict[str, Any]:
        """Return what `windows list --json` has for one window."""
        return {
            **self.as_json(),
            "key": window.key,
            "start_ms": window.start_ms,
            "end_ms": window.end_ms,
            "open": window.is_open,
            "value": None if window.value is None else orjson.loads(window.value),
        }


async def find_windows(
    broker: Broker, *, handler: str | None = None, group: str | None = None, topic: str | None = None
) -> list[WindowedCursor]:
    """Return the cursors that have windows, by group, topic, handler and partition; `handler` is a whole name."""
    stored = await broker.list_operators(handler=handler, group=group, topic=topic)
    views = [(one, read_view(one.progress)) for one in stored]
    return [WindowedCursor(one, view) for one, view in views if view is not None]


async def each_window(
    broker: Broker, found: WindowedCursor, *, key: str | None = None, also_closed: bool = False
) -> AsyncIterator[StoredWindow]:
    """Give the open windows of a cursor, of one key or all: by start and key, sessions by key and start."""
    states = _States(broker, found.cursor)
    stored_key = None if key is None else encode_key(key)
    slots = [each for each in found.stored.namespaces if kind_of(each) == EntryKind.WINDOWS]
    async for window in found.view.each(states, slots, stored_key, also_closed=also_closed):
        yield window


@dataclass(frozen=True, slots=True)
class _States:
    """The states of a cursor in the broker."""

    broker: Broker
    cursor: Cursor

    async def read_entries(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        return await self.broker.read_entries(self.cursor, places)

    async def scan_entries(
        self, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        return await self.broker.scan_entries(self.cursor, namespace, after=after, max_entries=max_entries)

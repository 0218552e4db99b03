"""Windows as they are stored, read from the broker in bounded pages."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.cli.console import format_time
from pspf.connectors.base import Broker, CursorWindows
from pspf.records import Cursor, WindowPlace
from pspf.windowing.event_time import encode_key
from pspf.windowing.inspect import StoredWindow, View, read_view
from pspf.windowing.session_rows import ROWS, TOGETHER, before_rows, split_row_key

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class WindowedCursor:
    """A cursor that has windows, and how they are read."""

    stored: CursorWindows
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
    stored = await broker.list_windows(handler=handler, group=group, topic=topic)
    views = [(one, read_view(one.progress)) for one in stored]
    return [WindowedCursor(one, view) for one, view in views if view is not None]


def name_of(window: StoredWindow) -> str:
    """Return a window's name for people, an ISO 8601 interval."""
    return f"{format_time(window.start_ms)}/{format_time(window.end_ms)}"


async def each_window(
    broker: Broker, found: WindowedCursor, *, key: str | None = None, also_closed: bool = False
) -> AsyncIterator[StoredWindow]:
    """Give the open windows of a cursor, of one key or all: by start and key, sessions by key and start."""
    view, slots = found.view, found.stored.slots
    source = _Source(broker, found.cursor, None if key is None else encode_key(key))
    if view.is_session:
        if TOGETHER in slots:
            async for stored_key, states in source.read([TOGETHER]):
                for window in view.read_sessions(stored_key, states[0]):
                    if window.is_open or also_closed:
                        yield window
        if ROWS in slots:
            async for rows in _each_row(broker, found.cursor, None if key is None else before_rows(key)):
                for window in view.read_session_rows(rows):
                    if window.is_open or also_closed:
                        yield window
        return
    starts = [
        start for start in view.starts(slots) if also_closed or not view.is_closed(start) or view.has_withheld(start)
    ]
    there = set(slots)
    parts = {start: [slot for slot in view.slots_of(start) if slot in there] for start in starts}
    await source.prepare(slot for slots_of_one in parts.values() for slot in slots_of_one)
    for start, slots_of_one in parts.items():
        async for stored_key, states in source.read(slots_of_one):
            window = view.read(start, stored_key, states)
            if window.is_open or also_closed:
                yield window


async def _each_row(
    broker: Broker, cursor: Cursor, prefix: bytes | None
) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
    """Give the rows of sessions, those of a key together; with `prefix` of one key alone."""
    after, kept = prefix, list[tuple[bytes, bytes]]()
    while True:
        page = await broker.scan_windows(cursor, ROWS, after=after, max_entries=_PAGE)
        for stored_key, stored in page:
            if prefix is not None and not stored_key.startswith(prefix):
                page = []
                break
            if kept and split_row_key(kept[0][0])[0] != split_row_key(stored_key)[0]:
                yield kept
                kept = []
            kept.append((stored_key, stored))
        if len(page) < _PAGE:
            break
        after = page[-1][0]
    if kept:
        yield kept


class _Source:
    """The states of a cursor's slots: of one key, all in one read, or of all keys, page by page."""

    def __init__(self, broker: Broker, cursor: Cursor, stored_key: bytes | None) -> None:
        self._broker = broker
        self._cursor = cursor
        self._key = stored_key
        self._known: Mapping[WindowPlace, bytes] | None = None

    async def prepare(self, slots: Iterable[int]) -> None:
        """Read what there is of the one key in all slots that `read` will be asked for."""
        if self._key is not None:
            places = [(slot, self._key) for slot in dict.fromkeys(slots)]
            self._known = await self._broker.read_windows(self._cursor, places)

    async def read(self, slots: Sequence[int]) -> AsyncIterator[tuple[bytes, list[bytes]]]:
        """Give each key that has states in the slots, in order, with these in the order of slots."""
        if self._key is not None:
            if self._known is None:
                await self.prepare(slots)
            known = self._known or {}
            states = [known[slot, self._key] for slot in slots if (slot, self._key) in known]
            if states:
                yield self._key, states
            return
        after: bytes | None = None
        while True:
            pages = [
                await self._broker.scan_windows(self._cursor, slot, after=after, max_entries=_PAGE) for slot in slots
            ]
            # A page that is full ends before its slot does: behind its last key others know more than it.
            ends = [page[-1][0] for page in pages if len(page) == _PAGE]
            states_of: dict[bytes, list[bytes]] = {}
            for page in pages:
                for key, state in page:
                    if not ends or key <= min(ends):
                        states_of.setdefault(key, []).append(state)
            for key in sorted(states_of):
                yield key, states_of[key]
            if not ends:
                return
            after = min(ends)

"""Stored timers of groups, read from the broker in order of their due times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.cli.console import format_time, shorten, write_table
from pspf.cli.services.pending import PendingFilter
from pspf.connectors.contract.broker import Broker
from pspf.errors import StateUnreadable
from pspf.records import Cursor, as_text
from pspf.windowing.timers.progress import is_of_timers
from pspf.windowing.timers.rows import CLOCK, EVENT, ROWS, TimerRow, key_and_name, place_of

_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class StoredTimer:
    """A timer of a cursor."""

    cursor: Cursor
    key: bytes
    name: str
    row: TimerRow

    @property
    def kind(self) -> str:
        """What it waits for: `event time`, `clock`, or `retry` after a failed run."""
        if self.row.attempts:
            return "retry"
        return "event time" if self.row.is_event_time else "clock"

    def as_json(self) -> dict[str, Any]:
        """Return what `pending list --json` has for it."""
        return {
            "topic": self.cursor.topic,
            "group": self.cursor.group,
            "handler": self.cursor.handler,
            "partition": self.cursor.partition,
            "key": as_text(self.key),
            "name": self.name,
            "kind": self.kind,
            "at_ms": self.row.at_ms,
            "due_ms": self.row.due_ms,
            "attempts": self.row.attempts,
            "error": self.row.error,
            "payload": orjson.loads(self.row.payload),
        }


async def list_timers(broker: Broker, choices: Sequence[PendingFilter], most: int) -> list[StoredTimer]:
    """Return the timers of groups that are due first, by due time, at most so many; one more says that there are."""
    found: list[StoredTimer] = []
    for choice in choices:
        if choice.ids:  # those of records
            continue
        for kept in await broker.list_operators(group=choice.group, topic=choice.topic, handler=choice.handler):
            if is_of_timers(kept.progress):
                for queue in (CLOCK, EVENT):
                    if queue in kept.namespaces:
                        found += await _list_queue(broker, kept.cursor, queue, choice, most + 1)
    found.sort(key=lambda timer: (timer.row.due_ms, timer.key, timer.name))
    return found[: most + 1]


async def _list_queue(
    broker: Broker, cursor: Cursor, queue: int, choice: PendingFilter, most: int
) -> list[StoredTimer]:
    found: list[StoredTimer] = []
    after: bytes | None = None
    while len(found) < most:
        page = await broker.scan_entries(cursor, queue, after=after, max_entries=_PAGE)
        places = [place_of(index) for index, _ in page]
        rows = await broker.read_entries(cursor, [(ROWS, place) for place in places])
        for place in places:
            stored = rows.get((ROWS, place))
            if stored is not None:  # else it has fired since
                key, name = key_and_name(place)
                timer = StoredTimer(cursor, key, name, _decode(stored, place))
                found += [timer] if _takes(choice, timer) else []
        if len(page) < _PAGE:
            break
        after = page[-1][0]
    return found[:most]


def _decode(stored: bytes, place: bytes) -> TimerRow:
    try:
        return TimerRow.decode(stored, place)
    except StateUnreadable as error:
        return TimerRow(0, False, 0, CLOCK, b"null", error=str(error))


def _takes(choice: PendingFilter, timer: StoredTimer) -> bool:
    error_type = timer.row.error.partition(":")[0]
    return choice.key in (None, as_text(timer.key)) and choice.error_type in (None, error_type)


def print_timers(timers: Sequence[StoredTimer]) -> None:
    """Print timers as a table."""
    rows = [
        (
            timer.name,
            timer.cursor.topic,
            timer.cursor.group,
            timer.cursor.handler,
            shorten(as_text(timer.key) or "", 24),
            timer.kind,
            format_time(timer.row.due_ms),
            timer.row.attempts,
            shorten(timer.row.error or "-", 60),
        )
        for timer in timers
    ]
    write_table(
        ("timer", "topic", "group", "handler", "key", "waits for", "due", "attempts", "last error"), rows, empty=""
    )

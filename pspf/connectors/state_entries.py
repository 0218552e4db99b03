"""Values of `ctx.state` read from the entries of cursors, in bounded pages: what both brokers list."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from pspf.connectors.contract.values import StateEntry
from pspf.events.expiring_values import unpack
from pspf.records import STATE, Cursor, EntryPlace, before_state, split_state_key, state_key, state_prefix

_PAGE: Final = 1_000


class EntryReader(Protocol):
    """The entries of cursors, as a broker has them."""

    async def read_entries(self, cursor: Cursor, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]: ...

    async def scan_entries(
        self, cursor: Cursor, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]: ...


async def list_state(
    reader: EntryReader,
    cursors: Sequence[Cursor],
    key: bytes | None,
    name: str | None,
    max_entries: int | None,
    now_ms: int,
) -> list[StateEntry]:
    """Return the values of cursors, by handler, topic, key, name and partition; the first `max_entries` of them.

    Those that have expired at `now_ms` are left out. With `key` or `name` those of this record key or name alone.
    """
    found: list[StateEntry] = []
    for cursor in cursors:
        before = len(found)
        async for entry in _each_value(reader, cursor, key, name, max_entries):
            value = unpack(entry.value, now_ms)
            if value is None:
                continue
            found.append(entry if value is entry.value else replace(entry, value=value))
            if max_entries is not None and len(found) - before >= max_entries:
                break  # the first of this cursor; the first of all are among them
    found.sort(key=lambda entry: (entry.handler, entry.topic, entry.key, entry.name, entry.partition))
    return found if max_entries is None else found[:max_entries]


async def _each_value(
    reader: EntryReader, cursor: Cursor, key: bytes | None, name: str | None, max_entries: int | None
) -> AsyncIterator[StateEntry]:
    """Give the values of one cursor, by key and name."""
    place = (cursor.handler or "", cursor.topic, cursor.group, cursor.partition)
    if key is not None and name is not None:
        wanted = state_key(key, name)
        for value in (await reader.read_entries(cursor, [(STATE, wanted)])).values():
            yield StateEntry(*place, key, name, value)
        return
    prefix = b"" if key is None else state_prefix(key)
    after = None if key is None else before_state(key)
    size = _PAGE if max_entries is None or name is not None else min(_PAGE, max(1, max_entries))
    while True:
        page = await reader.scan_entries(cursor, STATE, after=after, max_entries=size)
        for stored_key, value in page:
            if not stored_key.startswith(prefix):
                return
            record_key, found = split_state_key(stored_key)
            if name is None or found == name:
                yield StateEntry(*place, record_key, found, value)
        if len(page) < size:
            return
        after = page[-1][0]

"""Lifetime counters of the embedded broker, in its `meta` table."""

from typing import Final

from pspf.connectors.sqlite.storage import Storage

LOST: Final = "lost_entries_total"
DROPPED: Final = "dropped_entries_total"


def add_to_counter(storage: Storage, name: str, count: int) -> None:
    """Count `count` more."""
    storage.run("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2", (name, count))


def read_counter(storage: Storage, name: str) -> int:
    """Return how many were counted."""
    row = storage.row("SELECT value FROM meta WHERE name = ?", (name,))
    return 0 if row is None else int(row[0])

"""States of windows as tests write them, by place, and as commits have them, by namespace: the slot."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pspf.records import Commit, EntryChanges, EntryPlace, NamespaceEntries, NewRecord, OperatorProgress


def by_slot(states: Mapping[EntryPlace, bytes | None]) -> NamespaceEntries:
    """Return states as a commit has them."""
    found: dict[int, dict[bytes, bytes | None]] = {}
    for (slot, key), state in states.items():
        found.setdefault(slot, {})[key] = state
    return found


def by_place(states: NamespaceEntries) -> dict[EntryPlace, bytes | None]:
    """Return the states of a commit by slot and key."""
    return {(slot, key): state for slot, keys in states.items() for key, state in keys.items()}


def with_windows(
    commit: Commit,
    watermark_ms: int | None,
    progress: bytes,
    dropped: Sequence[int] = (),
    states: NamespaceEntries | None = None,
    late: Sequence[NewRecord] = (),
) -> Commit:
    """Return a commit that also writes windows."""
    changes = EntryChanges(dropped, {**commit.changes.entries, **(states or {})})
    return replace(commit, changes=changes, progress=OperatorProgress(watermark_ms, progress), late=late)

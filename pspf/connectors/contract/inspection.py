"""Inspection of a broker: progress of groups, dead letters, state, operators and their entries."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from pspf.connectors.contract.capabilities import lacking
from pspf.connectors.contract.values import (
    ConsumerInfo,
    CursorInfo,
    StateEntry,
    StoredDeadLetter,
    StoredOperator,
)
from pspf.records import (
    Cursor,
    EntryPlace,
)


class Inspection(ABC):
    """What commits have left, as seen from outside."""

    # Groups

    @abstractmethod
    async def list_cursors(self, *, group: str | None = None, topic: str | None = None) -> Sequence[CursorInfo]:
        """Return how far each cursor is, by group, topic, handler and partition."""

    @abstractmethod
    async def list_consumers(self, *, group: str | None = None) -> Sequence[ConsumerInfo]:
        """Return the live workers of the groups, or of one group."""

    # Dead letters

    @abstractmethod
    async def list_dead_letters(
        self, *, topic: str | None = None, group: str | None = None
    ) -> Sequence[StoredDeadLetter]:
        """Return dead letters, oldest first, of one source topic and group or of all."""

    async def replay_dead_letters(self, letters: Sequence[StoredDeadLetter], *, to: str | None = None) -> int:
        """Give dead letters a new start; return how many were still there. One commit.

        Each becomes a record to retry (attempts 0, due now) in the cursor that gave it up, ahead of the later records
        of its key, and in no other cursor: one whose record was trimmed is read from the letter's own bytes, at its old
        offset, until it is done. With `to` all are appended to that topic instead. It leaves the dead letters in the
        same commit.

        Raises:
            NotFound: The cursor that gave one up is gone; nothing was done.
            Refused: One is a window's result, and `to` is missing; nothing was done.
            ConfigurationError: `to` is a topic of dead or late records.
        """
        raise lacking("replay")

    @abstractmethod
    async def purge_dead_letters(self, letters: Sequence[StoredDeadLetter]) -> int:
        """Forget dead letters; return how many were still there."""

    # State; none where the broker keeps no entries

    async def list_state(
        self,
        *,
        handler: str | None = None,
        group: str | None = None,
        key: bytes | None = None,
        name: str | None = None,
        max_entries: int | None = None,
    ) -> Sequence[StateEntry]:
        """Return what handlers remember, by handler, topic, key, name and partition; the first `max_entries` of it."""
        return []

    # Operators and their entries, seen from outside: what commits left, no snapshot over several calls

    async def list_operators(
        self, *, handler: str | None = None, group: str | None = None, topic: str | None = None
    ) -> Sequence[StoredOperator]:
        """Return what cursors remember of operators, by group, topic, handler and partition; those that have some."""
        return []

    async def read_entries(self, cursor: Cursor, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        """Return the entries at places; what is not there is missing."""
        raise lacking("entries")

    async def scan_entries(
        self, cursor: Cursor, namespace: int, *, after: bytes | None = None, max_entries: int = 1_000
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return the first (key, value) of a namespace behind the key `after`, in order of key; fewer at its end."""
        raise lacking("entries")

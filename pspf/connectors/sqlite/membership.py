"""A session's row in the broker: created, renewed, created again, removed."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from pspf import faults
from pspf.clock import Clock
from pspf.connectors.sqlite.endings import come_back, give_back
from pspf.connectors.sqlite.engine.base import MEMBERS, Engine
from pspf.connectors.sqlite.liveness import Liveness
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger

logger = get_logger(__name__)


def read_boot_id() -> str:
    """Return what changes when the machine boots; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Membership:
    """One session, as the consumers that belong to it see it."""

    def __init__(self, session: str, clock: Clock, boot_id: str) -> None:
        self.session = session
        self.renewed_ms: int | None = None
        """When, on the monotonic clock, it last showed that it lives; None before the first time."""
        self._clock = clock
        self._boot_id = boot_id
        self._claims = itertools.count(1)
        self._members: set[tuple[int, str, str]] = set()

    def next_claim(self) -> int:
        """Return a number for one delivery, unique in the session."""
        return next(self._claims)

    def ensure(self, storage: Storage) -> bool:
        """Make the session's row what it is to be, where it is missing or says that the session is silent.

        Return whether there was something to do: it is new, or was taken for gone while the process stood still.
        """
        row = storage.row("SELECT renewed_ms FROM sessions WHERE session = ?", (self.session,))
        if row is not None and row[0]:
            return False
        now_ms = self._clock.now_ms()
        host = self.session.rsplit("-", 2)[0]
        storage.run(
            "INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0)"
            " ON CONFLICT (session) DO UPDATE SET renewals = renewals + 1, renewed_ms = ?5",
            (self.session, host, os.getpid(), self._boot_id, now_ms),
        )
        come_back(storage, self.session)
        self._join_again(storage)
        return True

    def join(self, storage: Storage, topic_id: int, group: str, handler: str) -> Callable[[], None]:
        """Be listed as a member of a group; return what is to be called when that is committed."""
        self.ensure(storage)
        member = (topic_id, group, handler)
        storage.run("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", (self.session, *member))
        return lambda: self._members.add(member)

    def resign(self, storage: Storage, topic: str, group: str, handler: str) -> Callable[[], None]:
        """Be listed as a member of a group no more; return what is to be called when that is committed."""
        row = storage.row("SELECT topic_id FROM topics WHERE topic = ?", (topic,))
        if row is None:
            return _nothing
        member = (row[0], group, handler)
        storage.run(
            "DELETE FROM members WHERE session = ? AND topic_id = ? AND group_name = ? AND handler = ?",
            (self.session, *member),
        )
        return lambda: self._members.discard(member)

    def renew(self, storage: Storage) -> bool:
        """Show that this process still works; return whether it was taken for gone meanwhile."""
        was_gone = self.ensure(storage)
        storage.run(
            "UPDATE sessions SET renewals = renewals + 1, renewed_ms = ? WHERE session = ?",
            (self._clock.now_ms(), self.session),
        )
        return was_gone

    def _join_again(self, storage: Storage) -> None:
        """Be listed in all groups again, in those that are still there."""
        for member in self._members:
            storage.run(
                "INSERT OR IGNORE INTO members SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM cursors c"
                " JOIN partitions p USING (partition_id)"
                " WHERE p.topic_id = ?2 AND c.group_name = ?3 AND c.handler = ?4)",
                (self.session, *member),
            )

    def leave(self, storage: Storage) -> None:
        """Give all back, uncharged, and remove the row."""
        give_back(storage, self.session)


def _nothing() -> None:
    pass


class Renewal:
    """Renews this process's sessions. On the engine's thread, so that no handler can starve it."""

    def __init__(self, liveness: Liveness, clock: Clock, every_ms: int) -> None:
        self.every_ms = every_ms
        self._liveness = liveness
        self._clock = clock
        self._memberships: dict[str, Membership] = {}
        self._is_failing = False

    def add(self, membership: Membership) -> None:
        self._memberships[membership.session] = membership

    def remove(self, membership: Membership) -> None:
        self._memberships.pop(membership.session, None)

    @property
    def own(self) -> set[str]:
        return set(self._memberships)

    def run(self, engine: Engine) -> None:
        memberships = list(self._memberships.values())
        if not memberships:
            return
        faults.reach("renew")
        try:
            self._renew(engine, memberships)
        except BackendUnavailable as error:
            if not self._is_failing:
                logger.warning("%s: sessions can't be renewed, will try again: %s", engine.storage.name, error)
            self._is_failing = True
        else:
            if self._is_failing:
                logger.info("%s: sessions are renewed again", engine.storage.name)
            self._is_failing = False

    def _renew(self, engine: Engine, memberships: list[Membership]) -> None:
        for membership in memberships:
            self._liveness.enter(membership.session)  # somebody may have removed what it showed itself by

        def renew(storage: Storage) -> list[str]:
            back = [membership.session for membership in memberships if membership.renew(storage)]
            if back:
                engine.grown.add(MEMBERS)
            return back

        for session in engine.write_now(renew):
            logger.warning(
                "%s: session %s was taken for gone while this process stood still; it takes part again",
                engine.storage.name,
                session,
            )
        now_ms = self._clock.monotonic_ms()
        for membership in memberships:
            membership.renewed_ms = now_ms

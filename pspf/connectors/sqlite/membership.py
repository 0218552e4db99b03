"""A session's row in the broker: made, renewed, and, of others that died, removed."""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pspf import faults
from pspf.clock import Clock
from pspf.connectors.sqlite.engine import MEMBERS, Engine
from pspf.connectors.sqlite.liveness import Liveness
from pspf.connectors.sqlite.storage import Row, Storage

_REAP_EVERY_MS: Final = 1_000


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
        self._clock = clock
        self._boot_id = boot_id
        self._claims = itertools.count(1)
        self._members: set[tuple[int, str, str]] = set()

    def next_claim(self) -> int:
        """Return a number for one delivery, unique in the session."""
        return next(self._claims)

    def ensure(self, storage: Storage) -> None:
        """Make the session's row where it is missing: new, or taken for dead while it hung."""
        if storage.row("SELECT 1 FROM sessions WHERE session = ?", (self.session,)) is not None:
            return
        now_ms = self._clock.now_ms()
        host = self.session.rsplit("-", 2)[0]
        storage.run(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, 0)",
            (self.session, host, os.getpid(), self._boot_id, now_ms, now_ms),
        )
        for topic_id, group, handler in self._members:
            self._insert(storage, topic_id, group, handler)

    def join(self, storage: Storage, topic_id: int, group: str, handler: str) -> None:
        """Be listed as a member of a group."""
        self._members.add((topic_id, group, handler))
        self.ensure(storage)
        self._insert(storage, topic_id, group, handler)

    def resign(self, storage: Storage, topic: str, group: str, handler: str) -> None:
        """Be listed as a member of a group no more."""
        row = storage.row("SELECT topic_id FROM topics WHERE topic = ?", (topic,))
        if row is not None:
            self._members.discard((row[0], group, handler))
            storage.run(
                "DELETE FROM members WHERE session = ? AND topic_id = ? AND group_name = ? AND handler = ?",
                (self.session, row[0], group, handler),
            )

    def _insert(self, storage: Storage, topic_id: int, group: str, handler: str) -> None:
        storage.run("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", (self.session, topic_id, group, handler))

    def renew(self, storage: Storage) -> None:
        """Show that this process still works."""
        self.ensure(storage)
        storage.run(
            "UPDATE sessions SET renewals = renewals + 1, renewed_ms = ? WHERE session = ?",
            (self._clock.now_ms(), self.session),
        )

    def leave(self, storage: Storage) -> None:
        """Give all back, uncharged, and remove the row."""
        storage.run("UPDATE cursors SET session = NULL, token = NULL, is_clean = 1 WHERE session = ?", (self.session,))
        storage.run("UPDATE claims SET session = NULL, is_started = 0 WHERE session = ?", (self.session,))
        remove_session(storage, self.session)


class Renewal:
    """Renews this process's sessions. On the engine's thread, so that no handler can starve it."""

    def __init__(self, every_ms: int) -> None:
        self.every_ms = every_ms
        self._memberships: dict[str, Membership] = {}

    def add(self, membership: Membership) -> None:
        self._memberships[membership.session] = membership

    def remove(self, membership: Membership) -> None:
        self._memberships.pop(membership.session, None)

    @property
    def own(self) -> set[str]:
        return set(self._memberships)

    def run(self, engine: Engine) -> None:
        memberships = list(self._memberships.values())
        if memberships:
            faults.reach("renew")
            engine.write_now(lambda storage: _renew_all(storage, memberships))


def _renew_all(storage: Storage, memberships: Sequence[Membership]) -> None:
    for membership in memberships:
        membership.renew(storage)


class Reaper:
    """Finds sessions that died or hang, and puts what they held up for others."""

    def __init__(self, liveness: Liveness, renewal: Renewal, clock: Clock, lease_ms: int, boot_id: str) -> None:
        self.every_ms = _REAP_EVERY_MS
        self._liveness = liveness
        self._renewal = renewal
        self._clock = clock
        self._lease_ms = lease_ms
        self._boot_id = boot_id
        self._seen: dict[str, tuple[int, int]] = {}

    def run(self, engine: Engine) -> None:
        rows = engine.read_now(lambda storage: storage.rows("SELECT session, renewals, boot_id FROM sessions"))
        dead = [row for row in rows if self._is_dead(row)]
        self._seen = {row[0]: self._seen[row[0]] for row in rows if row[0] in self._seen}
        for session, renewals, boot_id in dead:
            engine.write_now(self._reap(engine, session, renewals, is_reboot=boot_id != self._boot_id))
            self._liveness.forget(session)
        if dead:
            engine.look_again()

    def _is_dead(self, row: Row) -> bool:
        session, renewals, boot_id = row
        if session in self._renewal.own:
            return False
        if boot_id != self._boot_id or self._liveness.is_dead(session):
            return True
        now_ms = self._clock.monotonic_ms()
        known = self._seen.get(session)
        if known is None or known[0] != renewals:
            self._seen[session] = (renewals, now_ms)
            return False
        return now_ms - known[1] > self._lease_ms

    @staticmethod
    def _reap(engine: Engine, session: str, renewals: int, *, is_reboot: bool) -> Callable[[Storage], None]:
        def reap(storage: Storage) -> None:
            row = storage.row("SELECT renewals FROM sessions WHERE session = ?", (session,))
            if row is None or row[0] != renewals:
                return  # another worker was first, or it works again
            storage.run(
                "UPDATE cursors SET session = NULL, token = NULL, is_clean = ? WHERE session = ?", (is_reboot, session)
            )
            if is_reboot:
                storage.run("UPDATE claims SET session = NULL, is_started = 0 WHERE session = ?", (session,))
            else:
                orphan_claims(storage, session)
            engine.grown.update(
                row[0]
                for row in storage.rows(
                    "SELECT partition_id FROM cursors c WHERE EXISTS"
                    " (SELECT 1 FROM claims m WHERE m.cursor_id = c.cursor_id AND m.session IS NULL)"
                )
            )
            remove_session(storage, session)
            engine.grown.add(MEMBERS)

        return reap


def orphan_claims(storage: Storage, session: str) -> None:
    """Put a dead session's claims up for others, each as suspect.

    One that had started to run alone ended its process: a range is halved, a single record is charged.
    """
    for cursor_id, first, last, is_started in storage.rows(
        "SELECT cursor_id, first, last, is_suspect AND is_started FROM claims WHERE session = ?", (session,)
    ):
        where = (cursor_id, first)
        if is_started and first < last:
            middle = (first + last) // 2
            storage.run(
                "INSERT INTO claims (cursor_id, first, last, claim, claimed_ms, is_suspect)"
                " SELECT cursor_id, ? + 1, last, claim, claimed_ms, 1 FROM claims WHERE cursor_id = ? AND first = ?",
                (middle, *where),
            )
            storage.run("UPDATE claims SET last = ? WHERE cursor_id = ? AND first = ?", (middle, *where))
        storage.run(
            "UPDATE claims SET session = NULL, is_suspect = 1, is_started = 0, crashes = crashes + ?"
            " WHERE cursor_id = ? AND first = ?",
            (int(is_started and first == last), *where),
        )


def remove_session(storage: Storage, session: str) -> None:
    """Remove a session and its memberships."""
    storage.run("DELETE FROM members WHERE session = ?", (session,))
    storage.run("DELETE FROM sessions WHERE session = ?", (session,))

"""Endings of a session and their consequences: it left, its process ended, or it fell silent.

A process that has ended is charged with what it ran: a range of suspects is halved, one that ran alone has one crash
more. One that stands still may come back, and then nothing was its record's fault. So what a silent session ran alone
is only noted (`silent_runs`): charged when its process is found to have ended, forgotten when it comes back.
"""

from dataclasses import replace
from typing import Final

from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.suspicion import Suspicion

DIED, CLEAN, SILENT = 0, 1, 2
"""What a cursor's `is_clean` says of its last owner."""

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS silent_runs (session TEXT NOT NULL, cursor_id INTEGER NOT NULL,"
    " offset INTEGER NOT NULL, PRIMARY KEY (session, cursor_id, offset)) WITHOUT ROWID"
)
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'silent_runs'"


def give_back(storage: Storage, session: str) -> None:
    """It left, or its machine was restarted: all is free, uncharged."""
    _free_cursors(storage, session, CLEAN)
    storage.run("UPDATE claims SET session = NULL, is_started = 0 WHERE session = ?", (session,))
    _remove(storage, session)


def die(storage: Storage, session: str) -> None:
    """Its process has ended: what it held is suspect, and what ran alone is charged."""
    _charge_noted(storage, session)
    _free_cursors(storage, session, DIED)
    for cursor_id, offset in orphan_claims(storage, session):
        storage.run("UPDATE claims SET crashes = crashes + 1 WHERE cursor_id = ? AND first = ?", (cursor_id, offset))
    _remove(storage, session)


def fall_silent(storage: Storage, session: str) -> None:
    """It does not renew, though its process is there: what it held is suspect, and nothing is charged yet."""
    ran_alone = [
        (cursor_id, suspicion.offsets[0])
        for cursor_id, intent in storage.rows(
            "SELECT cursor_id, intent FROM cursors WHERE session = ? AND intent IS NOT NULL", (session,)
        )
        if (suspicion := Suspicion.parse(intent)) is not None and len(suspicion.offsets) == 1 and suspicion.is_alone
    ]
    _free_cursors(storage, session, SILENT)
    ran_alone += orphan_claims(storage, session)
    if ran_alone:
        storage.run(_TABLE)
        storage.insert("silent_runs", 3, [(session, *place) for place in ran_alone], verb="INSERT OR IGNORE")
    storage.run("DELETE FROM members WHERE session = ?", (session,))
    storage.run("UPDATE sessions SET renewed_ms = 0 WHERE session = ?", (session,))


def come_back(storage: Storage, session: str) -> None:
    """It works again: nothing that it ran has ended its process."""
    if storage.row(_HAS_TABLE) is not None:
        storage.run("DELETE FROM silent_runs WHERE session = ?", (session,))


def orphan_claims(storage: Storage, session: str) -> list[tuple[int, int]]:
    """Put a session's claims up for others, each as suspect; return (cursor id, offset) of records that ran alone.

    A range that had started to run, with nothing else, is halved.
    """
    ran_alone: list[tuple[int, int]] = []
    for cursor_id, first, last, is_started in storage.rows(
        "SELECT cursor_id, first, last, is_suspect AND is_started FROM claims WHERE session = ?", (session,)
    ):
        where = (cursor_id, first)
        if is_started and first == last:
            ran_alone.append(where)
        elif is_started:
            middle = (first + last) // 2
            storage.run(
                "INSERT INTO claims (cursor_id, first, last, claim, claimed_ms, is_suspect)"
                " SELECT cursor_id, ? + 1, last, claim, claimed_ms, 1 FROM claims WHERE cursor_id = ? AND first = ?",
                (middle, *where),
            )
            storage.run("UPDATE claims SET last = ? WHERE cursor_id = ? AND first = ?", (middle, *where))
        storage.run(
            "UPDATE claims SET session = NULL, is_suspect = 1, is_started = 0 WHERE cursor_id = ? AND first = ?", where
        )
    return ran_alone


def _free_cursors(storage: Storage, session: str, is_clean: int) -> None:
    storage.run("UPDATE cursors SET session = NULL, token = NULL, is_clean = ? WHERE session = ?", (is_clean, session))


def _charge_noted(storage: Storage, session: str) -> None:
    """Charge what the session ran alone when it fell silent, where that is not done since."""
    if storage.row(_HAS_TABLE) is None:
        return
    for cursor_id, offset in storage.rows(
        "DELETE FROM silent_runs WHERE session = ? RETURNING cursor_id, offset", (session,)
    ):
        storage.run(
            "UPDATE claims SET crashes = crashes + 1 WHERE cursor_id = ?1 AND first = ?2 AND last = ?2"
            " AND is_suspect = 1",
            (cursor_id, offset),
        )
        row = storage.row("SELECT intent FROM cursors WHERE cursor_id = ?", (cursor_id,))
        suspicion = None if row is None else Suspicion.parse(row[0])
        if suspicion is not None and suspicion.offsets == (offset,):
            charged = replace(suspicion, crashes=suspicion.crashes + 1)
            storage.run("UPDATE cursors SET intent = ? WHERE cursor_id = ?", (charged.format(), cursor_id))


def _remove(storage: Storage, session: str) -> None:
    come_back(storage, session)
    storage.run("DELETE FROM members WHERE session = ?", (session,))
    storage.run("DELETE FROM sessions WHERE session = ?", (session,))

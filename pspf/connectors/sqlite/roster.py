"""The roster in two tables that the first worker creates; nothing else in the file refers to them."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from pspf.connectors.contract.roster import Roster, WorkerInfo
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import NotFound

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS workers"
    " (worker TEXT PRIMARY KEY, status BLOB NOT NULL, at_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS worker_commands"
    " (command_id INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT NOT NULL, command BLOB NOT NULL)",
)

_LOOK_S: Final = 1.0


class SQLRoster(Roster):
    """The roster of an embedded broker. A power cut may take the last status with it: the next one comes soon."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_tables = False

    async def publish(self, worker: str, status: bytes, *, ttl_ms: int) -> None:
        def write(storage: Storage) -> None:
            self._make_tables(storage)
            now_ms = self._engine.clock.now_ms()
            storage.run("DELETE FROM workers WHERE until_ms <= ?", (now_ms,))
            storage.run("DELETE FROM worker_commands WHERE worker NOT IN (SELECT worker FROM workers)")
            storage.run("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?)", (worker, status, now_ms, now_ms + ttl_ms))

        await self._engine.write(write, durable=False)

    async def withdraw(self, worker: str) -> None:
        def write(storage: Storage) -> None:
            if self._find_tables(storage):
                storage.run("DELETE FROM workers WHERE worker = ?", (worker,))
                storage.run("DELETE FROM worker_commands WHERE worker = ?", (worker,))

        await self._engine.write(write, durable=False)

    async def list_workers(self) -> Sequence[WorkerInfo]:
        def read(storage: Storage) -> list[WorkerInfo]:
            if not self._find_tables(storage):
                return []
            now_ms = self._engine.clock.now_ms()
            rows = storage.rows(
                "SELECT worker, status, at_ms FROM workers WHERE until_ms > ? ORDER BY worker", (now_ms,)
            )
            return [WorkerInfo(worker, status, max(0, now_ms - at_ms)) for worker, status, at_ms in rows]

        return await self._engine.read(read)

    async def send(self, worker: str, command: bytes) -> None:
        def write(storage: Storage) -> bool:
            if not self._find_tables(storage):
                return False
            now_ms = self._engine.clock.now_ms()
            if storage.row("SELECT 1 FROM workers WHERE worker = ? AND until_ms > ?", (worker, now_ms)) is None:
                return False
            storage.run("INSERT INTO worker_commands (worker, command) VALUES (?, ?)", (worker, command))
            return True

        if not await self._engine.write(write, durable=False):
            raise NotFound(f"no worker {worker!r} is running")

    async def take_commands(self, worker: str, *, wait_ms: int = 0) -> Sequence[bytes]:
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            commands = await self._take(worker)
            left_s = deadline - time.monotonic()
            if commands or left_s <= 0:
                return commands
            await asyncio.sleep(min(left_s, _LOOK_S))

    async def _take(self, worker: str) -> Sequence[bytes]:
        def look(storage: Storage) -> bool:
            return self._find_tables(storage) and bool(
                storage.rows("SELECT 1 FROM worker_commands WHERE worker = ? LIMIT 1", (worker,))
            )

        def take(storage: Storage) -> list[bytes]:
            rows = storage.rows("SELECT command FROM worker_commands WHERE worker = ? ORDER BY command_id", (worker,))
            storage.run("DELETE FROM worker_commands WHERE worker = ?", (worker,))
            return [row[0] for row in rows]

        # Asked once a second by every worker: as long as there is nothing, nothing is written.
        if not await self._engine.read(look):
            return []
        return await self._engine.write(take, durable=False)

    def _make_tables(self, storage: Storage) -> None:
        if not self._find_tables(storage):
            for table in _TABLES:
                storage.run(table)

    def _find_tables(self, storage: Storage) -> bool:
        """Return whether the tables are there; they never go away, once the transaction that made them is committed."""
        if self._has_tables:
            return True
        found = bool(storage.rows("SELECT 1 FROM sqlite_schema WHERE name = 'worker_commands'"))
        self._has_tables = found and not storage.connection.in_transaction
        return found

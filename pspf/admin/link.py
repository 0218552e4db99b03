"""The link to the worker: snapshots come in, commands go out."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pspf.admin.http_error import HttpError
from pspf.observability.snapshots import AdminSpec, Snapshot, encode_command

_MAX_LINE_BYTES: Final = 64 << 20
_ANSWER_S: Final = 5.0
SILENT_MS: Final = 10_000
"""How old the last snapshot of a worker that lives may be."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot, and how old it is."""

    snapshot: Snapshot
    age_ms: int

    @property
    def is_fresh(self) -> bool:
        """Whether the worker can be said to live."""
        return self.age_ms < SILENT_MS


class WorkerLink:
    """Made by `open`; `run` returns when the worker is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spec: AdminSpec) -> None:
        self.spec = spec
        self._reader = reader
        self._writer = writer
        self._snapshot: Snapshot | None = None
        self._seen_at = 0.0
        self._numbers = itertools.count(1)
        self._asked: dict[str, asyncio.Future[Mapping[str, Any]]] = {}

    @classmethod
    async def open(cls, connection: socket.socket) -> "WorkerLink | None":
        """Read the worker's first words; None where it is gone already."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=_MAX_LINE_BYTES)
        line = await reader.readline()
        return cls(reader, writer, AdminSpec.from_fields(json.loads(line)["spec"])) if line else None

    async def run(self) -> None:
        """Take what the worker tells, until it is gone."""
        try:
            await self._listen()
        finally:
            self._writer.close()

    async def _listen(self) -> None:
        while line := await self._reader.readline():
            message = json.loads(line)
            if "snapshot" in message:
                self._snapshot = Snapshot.from_fields(message["snapshot"])
                self._seen_at = time.monotonic()
            else:
                answer = dict(message["answer"])
                future = self._asked.pop(answer.pop("id"), None)
                if future is not None and not future.done():
                    future.set_result(answer)

    def look(self) -> Seen:
        """Return the last snapshot.

        Raises:
            Trouble: 503, before the first.
        """
        if self._snapshot is None:
            raise HttpError(503, "the worker has not said anything yet")
        return Seen(self._snapshot, round((time.monotonic() - self._seen_at) * 1000))

    async def ask(self, do: str, **others: Any) -> Mapping[str, Any]:
        """Tell the worker to do something; return what it answers.

        Raises:
            Trouble: 409: it can't; 503: it does not answer.
        """
        command_id = str(next(self._numbers))
        future = self._asked[command_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                self._writer.write(encode_command(command_id, do, **others))
                await self._writer.drain()
                answer: Mapping[str, Any] = await future
        except (TimeoutError, OSError):
            raise HttpError(503, f"the worker has not answered within {_ANSWER_S:.0f} s") from None
        finally:
            self._asked.pop(command_id, None)
        if "error" in answer:
            raise HttpError(409, str(answer["error"]))
        return answer

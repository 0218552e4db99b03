"""The roster: the workers of a broker, their status, and commands for them.

Beside the sessions, which say who holds what: a worker is shown here also while none of its
processes gets as far as a session. The broker keeps what is said as it is; `pspf/runtime` writes it
and `pspf workers` and `pspf health` read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pspf.connectors.contract.capabilities import lacking

MAX_STATUS_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker said of itself, and how long ago."""

    worker: str
    status: bytes
    age_ms: int


class Roster:
    """The workers of a broker. Every method may raise `BackendUnavailable`: wait, then call again."""

    async def publish(self, worker: str, status: bytes, *, ttl_ms: int) -> None:
        """Show `status`, of at most `MAX_STATUS_BYTES`, for `worker`, until `ttl_ms` have passed; replaces the last."""
        raise lacking("roster")

    async def withdraw(self, worker: str) -> None:
        """Show the worker no longer, and forget what it was to do. Safe to call twice."""
        raise lacking("roster")

    async def list_workers(self) -> Sequence[WorkerInfo]:
        """Return the workers that are shown, by id."""
        raise lacking("roster")

    async def send(self, worker: str, command: bytes) -> None:
        """Leave a command for a worker.

        Raises:
            NotFound: No such worker is shown.
        """
        raise lacking("roster")

    async def take_commands(self, worker: str, *, wait_ms: int = 0) -> Sequence[bytes]:
        """Return the commands left for a worker, in order; each is given once.

        Waits at most `wait_ms` for the first.
        """
        raise lacking("roster")

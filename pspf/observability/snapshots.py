"""Snapshots from a worker to its admin process, and that process's configuration: lines of JSON.

worker -> admin   AdminSpec, once; then a Snapshot every half second, and answers to commands
admin  -> worker  commands: `{"id": ..., "do": "pause", "process": null}`
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pspf.observability.fields import Fields
from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import WorkerStatus


@dataclass(frozen=True, slots=True)
class HandlerShape:
    """One handler as its app declares it. `window` and `to` are of windowed handlers, None elsewhere.

    `beside` are the topics that it reads with the first one.
    """

    handler: str
    topic: str
    group: str
    ordering: str
    model: str | None
    window: str | None
    to: str | None
    concurrency: int
    beside: tuple[str, ...] = ()

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that it reads, the first one first."""
        return (self.topic, *self.beside)

    @property
    def key(self) -> tuple[str, str, str]:
        """(topic, group, handler)."""
        return self.topic, self.group, self.handler

    @property
    def cursor_handler(self) -> str | None:
        """The handler's name in its cursors, None where the group shares them."""
        return None if self.ordering == "none" else self.handler


@dataclass(frozen=True, slots=True)
class AdminSpec(Fields):
    """Who a worker is and where its admin listens: descriptors of sockets that are bound, None for none.

    Beyond loopback (`is_exposed`) reading needs the token, too. `hosts` are further names that a
    request may call this host by. `backend` is the broker's URL with its password, None for one that
    lives in the worker's process; `broker` its name without. `level` and `log_format` are of the log.
    """

    worker: str
    host: str
    pid: int
    app: str
    started_ms: int
    broker: str
    backend: str | None
    admin_fd: int | None
    metrics_fd: int | None
    is_exposed: bool
    is_metrics_exposed: bool
    hosts: tuple[str, ...]
    token: str
    level: str
    log_format: str

    def encode(self) -> bytes:
        """Return it as one line."""
        return _line({"spec": asdict(self)})


@dataclass(frozen=True, slots=True)
class Snapshot(Fields):
    """A worker at one moment.

    `status` is the one that it shows in the broker's roster. `counters` are of all its processes, ended ones
    among them; `restarts` are (topic, group, processes that crashed); `handlers` what its app declares; `level`
    from where it logs.
    """

    status: WorkerStatus
    counters: tuple[HandlerCounters, ...]
    restarts: tuple[tuple[str, str, int], ...]
    handlers: tuple[HandlerShape, ...]
    level: str

    def encode(self) -> bytes:
        """Return it as one line."""
        return _line({"snapshot": asdict(self)})


def encode_answer(command_id: str, answer: Mapping[str, Any]) -> bytes:
    """Return the answer to a command as one line."""
    return _line({"answer": {"id": command_id, **answer}})


def encode_command(command_id: str, do: str, **others: Any) -> bytes:
    """Return a command as one line."""
    return _line({"id": command_id, "do": do, **others})


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"

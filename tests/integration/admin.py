"""An admin in the test's own process: the test plays the worker at the other end of its socket."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pspf.admin.app import make_app, make_metrics_app
from pspf.admin.broker import BrokerDesk
from pspf.admin.context import AdminContext
from pspf.admin.link import WorkerLink
from pspf.admin.server import MAX_CONNECTIONS, serving
from pspf.observability.snapshots import AdminSpec, HandlerShape, Snapshot, encode_answer
from pspf.observability.telemetry import HandlerCounters
from pspf.observability.worker_status import ProcessStatus, WorkerStatus
from tests.support.http import Answer, fetch

TOKEN = "a-token-of-the-tests-own"
TOTAL = HandlerShape("app.total", "orders", "billing", "key", "Order", None, None, 1)
AUDIT = HandlerShape("app.audit", "orders", "audit", "none", "Order", None, None, 2)
SPEC = AdminSpec(
    worker="host-1-abc",
    host="host",
    pid=1,
    app="app:stream",
    started_ms=1_700_000_000_000,
    broker="memory://",
    backend=None,
    admin_fd=None,
    metrics_fd=None,
    is_exposed=False,
    is_metrics_exposed=False,
    hosts=("workers.example",),
    token=TOKEN,
    level="INFO",
    log_format="plain",
)
PROCESS = {
    "place": "orders/billing#0",
    "pid": 12,
    "state": "running",
    "why": None,
    "worker": "host-12-def",
    "busy": [],
    "subscriptions": [
        {
            "topic": "orders",
            "group": "billing",
            "handler": "app.total",
            "partitions": [0],
            "processed": 7,
            "failed": 0,
            "dead": 0,
            "rate": 2.5,
            "last_commit_ms": 1_700_000_000_000,
        }
    ],
}
SNAPSHOT = Snapshot(
    WorkerStatus("running", ready=True, processes=(ProcessStatus.from_fields(PROCESS),)),
    (HandlerCounters(*TOTAL.key, processed=7, emits=("large",)),),
    (("orders", "billing", 3),),
    (TOTAL, AUDIT),
    "INFO",
)


@dataclass
class Admin:
    """An admin that serves on `port`, and the worker's end of its socket."""

    port: int
    desk: AdminContext
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    told: list[dict[str, Any]] = field(default_factory=list)

    async def tell(self, snapshot: Snapshot) -> None:
        """Say what the worker is at, and return when the admin knows."""
        self.writer.write(snapshot.encode())
        while True:
            with suppress(Exception):
                if self.desk.link.look().snapshot == snapshot:
                    return
            await asyncio.sleep(0.005)

    async def get(self, path: str, **others: Any) -> Answer:
        """Read something."""
        return await fetch(self.port, path, **others)

    async def post(self, path: str, *, token: str | None = TOKEN, **fields: Any) -> Answer:
        """Do something."""
        return await fetch(self.port, path, method="POST", token=token, **fields)

    async def answer_with(self, **answer: Any) -> dict[str, Any]:
        """Take the next command, and answer it; return it."""
        command: dict[str, Any] = json.loads(await self.reader.readline())
        self.writer.write(encode_answer(command["id"], answer))
        return command


@asynccontextmanager
async def admin(
    spec: AdminSpec = SPEC,
    snapshot: Snapshot | None = SNAPSHOT,
    *,
    most: int = MAX_CONNECTIONS,
    only_metrics: bool = False,
) -> AsyncIterator[Admin]:
    """Serve while the block runs."""
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(spec.encode())
    link = await WorkerLink.open(theirs)
    assert link is not None
    desk = AdminContext(link, BrokerDesk(spec.backend, spec.broker))
    app = make_metrics_app(desk) if only_metrics else make_app(desk)
    running = asyncio.create_task(link.run())
    port = listener.getsockname()[1]
    try:
        async with serving(app, listener, most=most):
            made = Admin(port, desk, reader, writer)
            if snapshot is not None:
                await made.tell(snapshot)
            yield made
    finally:
        writer.close()
        await writer.wait_closed()
        await running
        await desk.broker.close()


def on(url: str | None, name: str) -> AdminSpec:
    """Return a spec of a worker on this broker."""
    return replace(SPEC, backend=url, broker=name)

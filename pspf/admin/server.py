"""The HTTP server: uvicorn on sockets that are already bound, with limits of time and number added.

A client that sends nothing, or a byte a second, would hold a connection for ever, and ten thousand of
them all descriptors of the process. Here each step of a request has its time, and where there are too
many connections the one that has waited longest without asking anything makes room for the new one.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

MAX_CONNECTIONS: Final = 200
_BACKLOG: Final = 100
_ASK_S: Final = 5.0
"""How long a client may take to send a request's head."""
_ANSWER_S: Final = 30.0
"""How long a request may take from its head to the last byte of the answer."""
_MAX_HEAD_BYTES: Final = 16 << 10


class OpenConnections:
    """The connections that there are; those that have not asked anything, in the order of their coming."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._silent: dict[BoundedProtocol, None] = {}
        self._asking: set[BoundedProtocol] = set()

    def __len__(self) -> int:
        return len(self._silent) + len(self._asking)

    def enter(self, protocol: "BoundedProtocol") -> None:
        """Take a new connection in; another one, or this one, has to leave where it is one too many."""
        self._silent[protocol] = None
        if len(self) > self._most:
            next(iter(self._silent)).abort()

    def ask(self, protocol: "BoundedProtocol") -> None:
        """Note that its request has come."""
        if self._silent.pop(protocol, 0) is None:
            self._asking.add(protocol)

    def rest(self, protocol: "BoundedProtocol") -> None:
        """Note that it has been answered."""
        if protocol in self._asking:
            self._asking.discard(protocol)
            self._silent[protocol] = None

    def leave(self, protocol: "BoundedProtocol") -> None:
        """Forget a connection."""
        self._silent.pop(protocol, None)
        self._asking.discard(protocol)


class BoundedProtocol(H11Protocol):
    """One connection: aborted where it takes too long to ask, or to take its answer."""

    room: OpenConnections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_ASK_S, self.abort)
        self.room.enter(self)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self.cycle.response_complete:
            self.room.ask(self)
            self._expect(_ANSWER_S)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, also inside a body, before or after its head was answered."""
        if self.conn.our_state is not h11.IDLE:
            self.cycle.disconnected = True  # an answer after this one would be logged as an error with a traceback
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        self.room.rest(self)
        self._expect(_ASK_S)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self.room.leave(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """End it at once."""
        self.room.leave(self)
        self.transport.abort()

    def _expect(self, within_s: float) -> None:
        self._deadline.cancel()
        self._deadline = self.loop.call_later(within_s, self.abort)


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket, *, most: int = MAX_CONNECTIONS) -> AsyncIterator[None]:
    """Serve `app` on a bound socket while the block runs."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
    config.load()
    state, room, loop = ServerState(), OpenConnections(most), asyncio.get_running_loop()

    def make_protocol() -> BoundedProtocol:
        protocol = BoundedProtocol(config=config, server_state=state, app_state={}, _loop=loop)
        protocol.room = room
        return protocol

    server = await loop.create_server(make_protocol, sock=listener, backlog=_BACKLOG)
    try:
        yield
    finally:
        server.close()
        connections: Any = set(state.connections)
        for connection in connections:
            connection.transport.abort()

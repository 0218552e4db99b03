"""An open connection as an asyncio protocol: a request goes out, its replies resolve its future."""

import asyncio
import math
import os
import weakref
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

Replies = list[Any]

_pending: Final = object()
OPEN: Final["weakref.WeakSet[Link]"] = weakref.WeakSet()
"""The connections of this process, some of them closed."""


def _drop_after_fork() -> None:
    """Put nothing in the place of each connection, in a forked child.

    What the child sent, or took out of the event loop as it ends, would be its parent's: they share the connections,
    and the list of what the event loop waits for.
    """
    links = [link for link in OPEN if link.is_open]
    if not links:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for link in links:
        link.replace(nothing)
    os.close(nothing)


os.register_at_fork(after_in_child=_drop_after_fork)


class TooManyBytes(Exception):
    """Replies are larger than who asked has room for; the connection is closed, and the rest never read."""


class Link(asyncio.Protocol):
    """A connection that redis-py has opened, taken over; nothing may be under way on it.

    One request at a time is on its way. Streams would cost an event loop's turn, a second copy of
    what came and a future more for each.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer  # it closes its transport when nobody holds it
        self._transport = cast(asyncio.Transport, writer.transport)
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(notEnoughData=_pending)
        self._replies: Replies = []
        self._wanted = 0
        self._room = math.inf
        """How many bytes more the replies may have."""
        self._waiter: asyncio.Future[Replies] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._take: Callable[[Replies], None] | None = None
        self._settled: asyncio.Future[None] | None = None
        self._closed = self._loop.create_future()
        self.is_open = not self._transport.is_closing()
        self._transport.set_protocol(self)
        OPEN.add(self)

    @property
    def is_busy(self) -> bool:
        """Whether a request is on its way, be it that nobody waits for its replies any more."""
        return self._waiter is not None

    def send(
        self, packed: bytes, count: int, timeout_ms: int, most_bytes: float = math.inf
    ) -> "asyncio.Future[Replies]":
        """Send a request; return the future of its `count` replies.

        It fails with TimeoutError, with EOFError or OSError where the connection broke, with
        hiredis.ProtocolError where something else answers, and with TooManyBytes where the replies are larger.
        """
        self._room = most_bytes
        waiter = self._waiter = self._loop.create_future()
        self._wanted = count
        self._deadline = deadline = self._loop.time() + timeout_ms / 1000
        if self._timer is None or self._timer.when() > deadline:
            self._watch(deadline)
        if self._transport.is_closing():  # since it was opened; uvloop would raise RuntimeError, asyncio send nothing
            self._break(EOFError("closed by the server"))
        else:
            self._transport.write(packed)
        return waiter

    def leave(self, take: Callable[[Replies], None]) -> None:
        """Have `take` get the replies that are on their way: who waited for them was cancelled."""
        self._take = take

    async def settled(self) -> None:
        """Return when nothing is on its way any more. For one at a time."""
        if self._waiter is not None:
            self._settled = self._loop.create_future()
            await self._settled

    async def close(self) -> None:
        """Close, and return when that is done."""
        self.is_open = False
        self._watch(None)
        self._transport.close()
        await asyncio.shield(self._closed)

    def abort(self) -> None:
        """Close at once."""
        self.is_open = False
        if not self._loop.is_closed():
            self._watch(None)
            self._transport.abort()

    def replace(self, descriptor: int) -> None:
        """Let the connection's descriptor stand for another file; for a process that must not use it."""
        os.dup2(descriptor, self._transport.get_extra_info("socket").fileno())

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        parser, replies = self._parser, self._replies
        self._room -= len(data)
        if self._room < 0:
            self._break(TooManyBytes())
            return
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not _pending:
                replies.append(reply)
        except hiredis.ProtocolError as error:
            self._break(error)
            return
        if len(replies) >= self._wanted:
            if len(replies) > self._wanted:
                self._break(EOFError("the server said more than it was asked"))
            else:
                self._finish(replies)

    def eof_received(self) -> None:
        self._break(EOFError("closed by the server"))

    def connection_lost(self, error: Exception | None) -> None:
        self._break(error or EOFError("closed by the server"))
        if not self._closed.done():
            self._closed.set_result(None)

    # What becomes of a request

    def _watch(self, deadline: float | None) -> None:
        """Look at the request's time then. One timer outlives many requests: each of its own would cost more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._watch(self._deadline)
        else:
            self._break(TimeoutError())

    def _break(self, error: Exception) -> None:
        self.abort()
        self._finish(error)

    def _finish(self, outcome: Replies | Exception) -> None:
        waiter, take, settled = self._waiter, self._take, self._settled
        self._waiter = self._take = self._settled = None
        self._replies, self._wanted = [], 0
        if settled is not None and not settled.done():
            settled.set_result(None)
        if waiter is None:
            return
        if not waiter.done():
            if isinstance(outcome, Exception):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)
        elif take is not None and not isinstance(outcome, Exception):
            take(outcome)

"""Lanes: connections that redis-py has opened, with requests packed and replies parsed by hiredis.

redis-py's client packs and answers each command in Python, which is half the price of a batch; here
hiredis does both, for all commands of a call at once. Nothing is ever sent again by this module.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import hiredis

from pspf.connectors.valkey.connection.descriptors import refuse_crowding
from pspf.connectors.valkey.connection.failures import (
    OutcomeUnknown,
    ReplyError,
    ReplyTooLarge,
    is_no_script,
    is_of_no_primary,
    translate,
)
from pspf.connectors.valkey.connection.link import Link, Replies, TooManyBytes
from pspf.connectors.valkey.connection.scripts import Command, Script, ScriptCall, SentScripts
from pspf.errors import BackendUnavailable

if TYPE_CHECKING:
    from pspf.connectors.valkey.connection.connector import ValkeyConnector

CALL_TIMEOUT_MS: Final = 10_000
BLOCK_MARGIN_MS: Final = 2_000
"""How much longer than its BLOCK a blocking read may take."""

Keep = Callable[[Any], None]
"""Takes the reply of a call that was cancelled: it was done, and what it gave must not be lost."""

_CLOSE_S: Final = 1.0


class Lane:
    """One connection for one purpose: opened on first use, and again after it broke.

    One call at a time is on its way; others wait their turn. A call that fails or is cancelled in
    the middle of its replies closes the connection, so that no reply is ever taken for another's;
    one that is cancelled and has a `keep` goes on, keeps its turn, and `keep` gets its reply.
    Each event loop that uses a lane has a connection of its own, which ends with the loop.
    """

    def __init__(
        self, connector: "ValkeyConnector", purpose: str, lanes: "LoopLanes | None" = None, *, gives_way: bool = False
    ) -> None:
        self.name = connector.name
        self._lanes = LoopLanes() if lanes is None else lanes
        """Where the lane is found while it is open."""
        self._scripts = self._lanes.scripts
        self._connector = connector
        self._purpose = purpose
        self._gives_way = gives_way
        """Whether it is opened only where descriptors are left for others."""
        self._ends: dict[asyncio.AbstractEventLoop, _End] = {}
        self._is_tracked = False

    @property
    def is_open(self) -> bool:
        return any(end.link is not None for end in list(self._ends.values()))

    @property
    def is_busy(self) -> bool:
        """Whether a call of the running event loop is on its way."""
        end = self._ends.get(asyncio.get_running_loop())
        return end is not None and end.is_busy

    @property
    def client_id(self) -> int:
        """The server's number of the connection, where `track` was called; 0 while there is none."""
        end = self._ends.get(asyncio.get_running_loop())
        return 0 if end is None else end.client_id

    async def wait_for_turn(self) -> None:
        """Return when the calls are done that are on their way or wait now."""
        end = self._ends.get(asyncio.get_running_loop())
        if end is not None and end.is_busy:
            async with end.turn:
                if end.link is not None:
                    await end.link.settled()

    def track(self) -> None:
        """Ask for the server's number of each new connection, so that another lane can unblock it."""
        self._is_tracked = True

    async def call(
        self,
        *command: bytes | str | int,
        timeout_ms: int = CALL_TIMEOUT_MS,
        keep: Keep | None = None,
        most_bytes: float = math.inf,
    ) -> Any:
        """Send one command; return its reply: bytes, int, None or a list of these.

        Raises:
            ReplyTooLarge: It has more than `most_bytes`; the command has run.
            OutcomeUnknown: No reply came; the command may have run, or may run later.
            BackendUnavailable: Nothing was sent, or the server refuses for now.
        """
        reply = (await self._exchange((command,), timeout_ms, keep, most_bytes))[0]
        return self.check(reply, _shown(command))

    async def call_many(self, commands: Sequence[Command], *, timeout_ms: int = CALL_TIMEOUT_MS) -> list[Any]:
        """Send commands at once; return their replies in order, an error reply as a `ReplyError` in its place.

        Raises:
            OutcomeUnknown: Some replies did not come; each command may have run, or may run later.
            BackendUnavailable: Nothing was sent.
        """
        return await self._exchange(commands, timeout_ms) if commands else []

    def check(self, reply: Any, doing: str) -> Any:
        """Return a reply of `call_many`, or raise the error that it is, as `call` would."""
        if isinstance(reply, ReplyError):
            raise translate(reply, self.name, doing)
        return reply

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | str | int],
        *,
        timeout_ms: int = CALL_TIMEOUT_MS,
        keep: Keep | None = None,
    ) -> Any:
        """Run a script; return its reply. Errors as in `call`."""
        reply = (await self._exchange((self._scripts.command(script, keys, arguments),), timeout_ms, keep))[0]
        if is_no_script(reply):
            self._scripts.missed(script)
            reply = (await self._exchange((script.command_with_text(keys, arguments),), timeout_ms, keep))[0]
        return self.check(reply, f"script {script.name}")

    async def run_many(self, calls: Sequence[ScriptCall], *, timeout_ms: int = CALL_TIMEOUT_MS) -> list[Any]:
        """Run scripts at once; return their replies in order, an error as PSPF's exception in its place.

        Raises: as `call_many`.
        """
        first = [self._scripts.command(*call) for call in calls]
        replies = await self.call_many(first, timeout_ms=timeout_ms)
        unknown = [index for index, reply in enumerate(replies) if is_no_script(reply)]
        if unknown:
            missed = [calls[index] for index in unknown]
            for script in {call.script for call in missed}:
                self._scripts.missed(script)
            again = await self.call_many(
                [call.script.command_with_text(call.keys, call.arguments) for call in missed], timeout_ms=timeout_ms
            )
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        for index, reply in enumerate(replies):
            if isinstance(reply, ReplyError):
                replies[index] = translate(reply, self.name, f"script {calls[index].script.name}")
        return replies

    async def close(self) -> None:
        """Close the connection; the next call opens another. Other event loops' are closed soon."""
        here = asyncio.get_running_loop()
        self._lanes.discard(self)
        for end in list(self._ends.values()):
            if end.loop is not here:
                end.drop_soon()
        mine = self._ends.get(here)
        if mine is None or mine.link is None:
            return
        link, mine.link = mine.link, None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await link.close()

    def drop(self) -> None:
        """Close the connection at once, whatever is on its way. Other event loops' are closed soon."""
        here = asyncio.get_running_loop()
        self._lanes.discard(self)
        for end in list(self._ends.values()):
            if end.loop is here:
                end.drop()
            else:
                end.drop_soon()

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the connection of an event loop that ends."""
        end = self._ends.pop(loop, None)
        if end is not None:
            end.drop()
        if not self._ends:
            self._lanes.discard(self)

    async def _exchange(
        self,
        commands: Sequence[Sequence[bytes | str | int]],
        timeout_ms: int,
        keep: Keep | None = None,
        most_bytes: float = math.inf,
    ) -> Replies:
        packed = _pack(commands)
        loop = asyncio.get_running_loop()
        end = self._ends.get(loop) or self._begin(loop)
        async with end.turn:
            link = end.link
            if link is not None and link.is_busy:
                await link.settled()
            if link is None or not link.is_open or end.trust != self._connector.trust:
                link = await self._open(end)
            replies = link.send(packed, len(commands), timeout_ms, most_bytes)
            try:
                found = await replies
            except asyncio.CancelledError:
                if keep is None:
                    end.drop()
                else:
                    _leave(link, replies, keep)
                raise
            except TimeoutError:
                end.drop()
                raise OutcomeUnknown(f"{self.name}: no answer to {_shown(commands[0])} in {timeout_ms} ms") from None
            except (OSError, EOFError) as error:
                end.drop()
                raise OutcomeUnknown(f"{self.name}: the connection broke: {_said(error)}") from error
            except TooManyBytes:
                end.drop()
                raise ReplyTooLarge(f"{self.name}: a reply of more than {most_bytes:,} bytes") from None
            except hiredis.ProtocolError as error:
                end.drop()
                raise OutcomeUnknown(f"{self.name}: no Valkey or Redis server answers there: {error}") from error
            except BaseException:
                end.drop()
                raise
            if is_of_no_primary(found):
                end.drop()
                self._connector.distrust()
            if not isinstance(found[0], ReplyError):
                self._lanes.worked()
            return found

    def _begin(self, loop: asyncio.AbstractEventLoop) -> "_End":
        for other in [other for other in self._ends if other.is_closed()]:
            self._ends.pop(other, None)
        end = self._ends[loop] = _End(loop)
        return end

    async def _open(self, end: "_End") -> Link:
        end.drop()
        end.trust = self._connector.trust
        if self._gives_way:
            refuse_crowding(self.name)
        await self._lanes.add(self, end.loop)
        link = end.link = Link(await self._connector.open_connection(self._purpose))
        if self._is_tracked:
            try:
                reply = (await link.send(_pack_one(("CLIENT", "ID")), 1, CALL_TIMEOUT_MS))[0]
            except (OSError, EOFError) as error:
                end.drop()
                raise BackendUnavailable(f"{self.name}: {_said(error)}") from error
            except BaseException:
                end.drop()
                raise
            end.client_id = reply if isinstance(reply, int) else 0
        return link


class _End:
    """A lane's connection in one event loop."""

    __slots__ = ("client_id", "link", "loop", "trust", "turn")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.turn = asyncio.Lock()
        self.link: Link | None = None
        self.client_id = 0
        self.trust = 0
        """What the connector's `trust` was when the connection was opened."""

    @property
    def is_busy(self) -> bool:
        return self.turn.locked() or (self.link is not None and self.link.is_busy)

    def drop(self) -> None:
        link, self.link = self.link, None
        self.client_id = 0
        if link is not None:
            link.abort()

    def drop_soon(self) -> None:
        """Drop it from another event loop's thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, and the connection with it
            self.loop.call_soon_threadsafe(self.drop)


class LoopLanes:
    """The open lanes of one broker object, by which they are closed: all of them, or those of an event loop that ends.

    An asynchronous generator waits in each event loop that has connections: when the loop ends, as
    at the end of `asyncio.run`, it is closed by the loop, and closes these.
    """

    def __init__(self, on_open: Callable[[], object] = bool, worked: Callable[[], object] = bool) -> None:
        self.worked: Final = worked
        """Called when a server did what it was asked for."""
        self.scripts: Final = SentScripts()
        self._on_open = on_open
        """Called before each connection is opened: the server behind it may have gone back in time."""
        self._open: set[Lane] = set()
        self._holds: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    async def add(self, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        """Note a lane that opens a connection in the running event loop."""
        self._on_open()
        self._open.add(lane)
        if loop not in self._holds:
            self._forget_closed_loops()
            hold = self._holds[loop] = self._hold(loop)
            await anext(hold)

    def discard(self, lane: Lane) -> None:
        """Forget a lane that is closed."""
        self._open.discard(lane)

    async def close(self) -> None:
        """Close all lanes; a lane that is used afterwards opens again."""
        for lane in list(self._open):
            await lane.close()
        hold = self._holds.pop(asyncio.get_running_loop(), None)
        if hold is not None:
            await hold.aclose()

    async def _hold(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._leave(loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        self._holds.pop(loop, None)
        for lane in list(self._open):
            lane.leave(loop)

    def _forget_closed_loops(self) -> None:
        """Forget loops that were closed without being shut down, as `run_until_complete` leaves them."""
        for loop in list(self._holds):
            if loop.is_closed():
                self._leave(loop)


def _leave(link: Link, replies: "asyncio.Future[Replies]", keep: Keep) -> None:
    """Have `keep` get the one reply, which is on its way or has come in the very moment of the cancellation."""

    def take(found: Replies) -> None:
        if not isinstance(found[0], ReplyError):
            keep(found[0])

    if replies.cancelled():
        link.leave(take)
    elif replies.exception() is None:
        take(replies.result())


_pack_one: Final[Callable[[tuple[Any, ...]], bytes]] = hiredis.pack_command


def _pack(commands: Sequence[Sequence[bytes | str | int]]) -> bytes:
    if len(commands) == 1:
        return _pack_one(tuple(commands[0]))
    return b"".join(map(_pack_one, map(tuple, commands)))


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _shown(command: Sequence[bytes | str | int]) -> str:
    """Return a command's name, without its arguments."""
    return str(command[0])

"""A thin seam over a connection that redis-py has opened: packed requests out, raw replies back.

redis-py's client packs and answers each command in Python, which is half the price of a batch; here
hiredis does both, for all commands of a call at once. Nothing is ever sent again by this module.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import hiredis

from pspf.connectors.valkey.failures import OutcomeUnknown, ReplyError, is_no_script, translate
from pspf.connectors.valkey.link import Link, Replies
from pspf.connectors.valkey.scripts import Command, Script, ScriptCall
from pspf.errors import BackendUnavailable

if TYPE_CHECKING:
    from pspf.connectors.valkey.connector import ValkeyConnector

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
    A lane belongs to the event loop that uses it; in another loop it opens a new connection.
    """

    def __init__(self, connector: "ValkeyConnector", purpose: str, opened: "set[Lane] | None" = None) -> None:
        self.name = connector.name
        self._opened = set() if opened is None else opened
        """Where the lane is found while it is open."""
        self._connector = connector
        self._purpose = purpose
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()
        self._link: Link | None = None
        self.client_id = 0
        """The server's number of the connection, where `track` was called; 0 while there is none."""
        self._is_tracked = False

    @property
    def is_open(self) -> bool:
        return self._link is not None

    @property
    def is_busy(self) -> bool:
        """Whether a call is on its way."""
        is_taken = self._turn.locked() or (self._link is not None and self._link.is_busy)
        return is_taken and self._loop is asyncio.get_running_loop()

    async def wait_for_turn(self) -> None:
        """Return when the calls are done that are on their way or wait now."""
        if self.is_busy:
            async with self._turn:
                if self._link is not None:
                    await self._link.settled()

    def track(self) -> None:
        """Ask for the server's number of each new connection, so that another lane can unblock it."""
        self._is_tracked = True

    async def call(
        self, *command: bytes | str | int, timeout_ms: int = CALL_TIMEOUT_MS, keep: Keep | None = None
    ) -> Any:
        """Send one command; return its reply: bytes, int, None or a list of these.

        Raises:
            OutcomeUnknown: No reply came; the command may have run, or may run later.
            BackendUnavailable: Nothing was sent, or the server refuses for now.
        """
        reply = (await self._exchange((command,), timeout_ms, keep))[0]
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
        reply = (await self._exchange((script.command(keys, arguments),), timeout_ms, keep))[0]
        if is_no_script(reply):
            reply = (await self._exchange((script.command_with_text(keys, arguments),), timeout_ms, keep))[0]
        return self.check(reply, f"script {script.name}")

    async def run_many(self, calls: Sequence[ScriptCall], *, timeout_ms: int = CALL_TIMEOUT_MS) -> list[Any]:
        """Run scripts at once; return their replies in order, an error as PSPF's exception in its place.

        Raises: as `call_many`.
        """
        first = [call.script.command(call.keys, call.arguments) for call in calls]
        replies = await self.call_many(first, timeout_ms=timeout_ms)
        unknown = [index for index, reply in enumerate(replies) if is_no_script(reply)]
        if unknown:
            missed = [calls[index] for index in unknown]
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
        """Close the connection; the next call opens another."""
        self._opened.discard(self)
        link, self._link = self._link, None
        if link is None or self._loop is not asyncio.get_running_loop():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await link.close()

    def drop(self) -> None:
        """Close the connection at once, whatever is on its way."""
        self._opened.discard(self)
        link, self._link = self._link, None
        self.client_id = 0
        if link is not None:
            link.abort()

    async def _exchange(
        self, commands: Sequence[Sequence[bytes | str | int]], timeout_ms: int, keep: Keep | None = None
    ) -> Replies:
        packed = _pack(commands)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.drop()
            self._loop, self._turn = loop, asyncio.Lock()
        async with self._turn:
            link = self._link
            if link is not None and link.is_busy:
                await link.settled()
            if link is None or not link.is_open:
                link = await self._open()
            replies = link.send(packed, len(commands), timeout_ms)
            try:
                return await replies
            except asyncio.CancelledError:
                if keep is None:
                    self.drop()
                else:
                    _leave(link, replies, keep)
                raise
            except TimeoutError:
                self.drop()
                raise OutcomeUnknown(f"{self.name}: no answer to {_shown(commands[0])} in {timeout_ms} ms") from None
            except (OSError, EOFError) as error:
                self.drop()
                raise OutcomeUnknown(f"{self.name}: the connection broke: {_said(error)}") from error
            except hiredis.ProtocolError as error:
                self.drop()
                raise OutcomeUnknown(f"{self.name}: no Valkey or Redis server answers there: {error}") from error
            except BaseException:
                self.drop()
                raise

    async def _open(self) -> Link:
        self.drop()
        link = self._link = Link(await self._connector.open_connection(self._purpose))
        self._opened.add(self)
        if self._is_tracked:
            try:
                reply = (await link.send(_pack_one(("CLIENT", "ID")), 1, CALL_TIMEOUT_MS))[0]
            except (OSError, EOFError) as error:
                self.drop()
                raise BackendUnavailable(f"{self.name}: {_said(error)}") from error
            except BaseException:
                self.drop()
                raise
            self.client_id = reply if isinstance(reply, int) else 0
        return link


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

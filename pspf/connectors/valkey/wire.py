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
from pspf.connectors.valkey.scripts import Command, Script, ScriptCall
from pspf.errors import BackendUnavailable

if TYPE_CHECKING:
    from pspf.connectors.valkey.connector import ValkeyConnector

CALL_TIMEOUT_MS: Final = 10_000
BLOCK_MARGIN_MS: Final = 2_000
"""How much longer than its BLOCK a blocking read may take."""

_READ_BYTES: Final = 1 << 18
_CLOSE_S: Final = 1.0
_pending: Final = object()


class Lane:
    """One connection for one purpose: opened on first use, and again after it broke.

    One call at a time is on its way; others wait their turn. A call that fails or is cancelled in
    the middle of its replies closes the connection, so that no reply is ever taken for another's.
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
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._parser = hiredis.Reader(notEnoughData=_pending)
        self.client_id = 0
        """The server's number of the connection, where `track` was called; 0 while there is none."""
        self._is_tracked = False

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    @property
    def is_busy(self) -> bool:
        """Whether a call is on its way."""
        return self._turn.locked() and self._loop is asyncio.get_running_loop()

    async def wait_for_turn(self) -> None:
        """Return when the calls are done that are on their way or wait now."""
        if self.is_busy:
            async with self._turn:
                return

    def track(self) -> None:
        """Ask for the server's number of each new connection, so that another lane can unblock it."""
        self._is_tracked = True

    async def call(self, *command: bytes | str | int, timeout_ms: int = CALL_TIMEOUT_MS) -> Any:
        """Send one command; return its reply: bytes, int, None or a list of these.

        Raises:
            OutcomeUnknown: No reply came; the command may have run, or may run later.
            BackendUnavailable: Nothing was sent, or the server refuses for now.
        """
        reply = (await self._exchange((command,), timeout_ms))[0]
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
    ) -> Any:
        """Run a script; return its reply. Errors as in `call`."""
        reply = (await self._exchange((script.command(keys, arguments),), timeout_ms))[0]
        if is_no_script(reply):
            reply = (await self._exchange((script.command_with_text(keys, arguments),), timeout_ms))[0]
        return self.check(reply, f"script {script.name}")

    async def run_many(self, calls: Sequence[ScriptCall], *, timeout_ms: int = CALL_TIMEOUT_MS) -> list[Any]:
        """Run scripts at once; return their replies in order, an error as PSPF's exception in its place.

        Raises: as `call_many`.
        """
        replies = await self.call_many([call.script.command(call.keys, call.arguments) for call in calls])
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
        writer, self._writer, self._reader = self._writer, None, None
        if writer is None or self._loop is not asyncio.get_running_loop():
            return
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await writer.wait_closed()

    def drop(self) -> None:
        """Close the connection at once, whatever is on its way."""
        self._opened.discard(self)
        writer, self._writer, self._reader = self._writer, None, None
        self.client_id = 0
        if writer is not None and self._loop is not None and not self._loop.is_closed():
            writer.transport.abort()

    async def _exchange(self, commands: Sequence[Sequence[bytes | str | int]], timeout_ms: int) -> list[Any]:
        packed = _pack(commands)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.drop()
            self._loop, self._turn = loop, asyncio.Lock()
        async with self._turn:
            if self._reader is None or self._reader.at_eof() or self._reader.exception() is not None:
                await self._open()
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    return await self._send_and_receive(packed, len(commands))
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

    async def _send_and_receive(self, packed: bytes, count: int) -> list[Any]:
        assert self._reader is not None
        assert self._writer is not None
        reader, writer, parser = self._reader, self._writer, self._parser
        writer.write(packed)
        await writer.drain()
        replies: list[Any] = []
        while True:
            reply = parser.gets()
            while reply is not _pending:
                replies.append(reply)
                if len(replies) == count:
                    return replies
                reply = parser.gets()
            received = await reader.read(_READ_BYTES)
            if not received:
                raise EOFError("closed by the server")
            parser.feed(received)

    async def _open(self) -> None:
        self.drop()
        self._reader, self._writer = await self._connector.open_connection(self._purpose)
        self._opened.add(self)
        self._parser = hiredis.Reader(notEnoughData=_pending)
        if self._is_tracked:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_MS / 1000):
                    reply = (await self._send_and_receive(_pack_one(("CLIENT", "ID")), 1))[0]
            except (OSError, EOFError) as error:
                self.drop()
                raise BackendUnavailable(f"{self.name}: {_said(error)}") from error
            except BaseException:
                self.drop()
                raise
            self.client_id = reply if isinstance(reply, int) else 0


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

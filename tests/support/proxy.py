"""A TCP proxy between a worker and its server, which loses what a test asks it to lose, or answers in its place.

It runs in a thread of its own, so that a test may wait for processes. It knows RESP just enough to tell
commands apart; what it does not lose it passes on unchanged, in order.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self, TypeVar

import hiredis

T = TypeVar("T")

Command = Sequence[bytes]
Matcher = Callable[[Command], bool]

CHUNK: Final = 1 << 16
WAIT_S: Final = 30
EVER: Final = 1 << 62


class Loss(Enum):
    """What happens to a command that a fault picks."""

    REQUEST = "the server never sees it, and the connection is cut"
    REPLY = "the server does it, then the connection is cut without its reply"
    ANSWER = "the server does it, and its reply and all later ones never come; the connection stands"
    HOLD = "it waits here until `release`, and reaches the server then, whoever is still there"
    REFUSAL = "the server never sees it, and it is answered by the proxy"
    DENIAL = "the server does it, and the proxy answers something else"


def named(*names: str) -> Matcher:
    """Return what picks commands by name."""
    wanted = {name.upper().encode() for name in names}
    return lambda command: command[0].upper() in wanted


@dataclass(eq=False)
class Fault:
    """What to do to some commands: to the `nth` one that `picks` agrees to, and the `times - 1` after it."""

    picks: Matcher
    loss: Loss
    nth: int = 1
    times: int = 1
    answer: bytes = b""
    """What a REFUSAL or a DENIAL answers, as it is sent."""
    seen: int = 0
    struck: int = 0
    hit: threading.Event = field(default_factory=threading.Event)
    """Set when it struck for the first time; for REPLY and ANSWER that means that the server has done it."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def strikes(self, command: Command) -> bool:
        """Return whether `command` is one of those, and count it."""
        if not self.picks(command):
            return False
        self.seen += 1
        is_struck = self.nth <= self.seen < self.nth + self.times
        self.struck += is_struck
        return is_struck

    def wait(self, timeout_s: float = WAIT_S) -> None:
        """Return when it struck; fail the test where it does not."""
        assert self.hit.wait(timeout_s), f"no command met the fault: {self.loss.value}"


class Link:
    """One connection through the proxy: a task for each direction."""

    def __init__(self, proxy: "Proxy", client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client, self._client_writer = client, writer
        self._server_writer: asyncio.StreamWriter | None = None
        self._sent = self._answered = 0
        self._lost: dict[int, Fault] = {}
        """Which reply is not to be passed on, by the number of its command on this connection."""
        self._denied: bytes | None = None
        """What is sent in place of the next reply."""
        self._passed = asyncio.Event()
        """Set when replies were passed on."""
        self._is_mute = False

    async def run(self) -> None:
        """Pass on until one side closes."""
        try:
            await self._proxy.gate.wait()
            server, self._server_writer = await asyncio.open_connection("127.0.0.1", self._proxy.target)
            tasks = [asyncio.create_task(self._pass_requests()), asyncio.create_task(self._pass_replies(server))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass  # the server is away: the client sees its connection closed
        finally:
            self.cut()

    def cut(self) -> None:
        """Reset both sides."""
        for writer in (self._client_writer, self._server_writer):
            if writer is None:
                continue
            connected = writer.get_extra_info("socket")
            if connected is not None and not writer.transport.is_closing():
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pass_requests(self) -> None:
        assert self._server_writer is not None
        reader = hiredis.Reader(notEnoughData=None)
        while chunk := await self._read(self._client):
            reader.feed(chunk)
            out: list[bytes] = []
            while (command := reader.gets()) is not None:
                fault = self._proxy.meet(command)
                if fault is not None and fault.loss is Loss.REQUEST:
                    await self._proxy.send(self._server_writer, b"".join(out))
                    fault.hit.set()
                    return
                if fault is not None and fault.loss is Loss.HOLD:
                    await self._proxy.send(self._server_writer, b"".join(out))
                    out = []
                    fault.hit.set()
                    await fault.over.wait()
                elif fault is not None and fault.loss in (Loss.REFUSAL, Loss.DENIAL):
                    await self._proxy.send(self._server_writer, b"".join(out))
                    out = []
                    await self._answer(fault, command)
                    continue
                elif fault is not None:
                    self._lost[self._sent] = fault
                self._sent += 1
                out.append(hiredis.pack_command(tuple(command)))
            await self._proxy.send(self._server_writer, b"".join(out))

    async def _answer(self, fault: Fault, command: Command) -> None:
        """Answer a command in the server's place, behind the replies to those before it."""
        assert self._server_writer is not None
        await self._wait_for_replies()
        if fault.loss is Loss.DENIAL:
            self._denied = fault.answer
            self._sent += 1
            words: Any = tuple(command)
            await self._proxy.send(self._server_writer, hiredis.pack_command(words))
            await self._wait_for_replies()
        else:
            await self._proxy.send(self._client_writer, fault.answer)
        fault.hit.set()

    async def _wait_for_replies(self) -> None:
        """Return when all that was sent was answered."""
        while self._answered < self._sent:
            self._passed.clear()
            await self._passed.wait()

    async def _pass_replies(self, server: asyncio.StreamReader) -> None:
        reader = hiredis.Reader(notEnoughData=self)
        while chunk := await self._read(server):
            reader.feed(chunk)
            while reader.gets() is not self:
                fault = self._lost.pop(self._answered, None)
                self._answered += 1
                if fault is None:
                    continue
                fault.hit.set()
                if fault.loss is Loss.REPLY:
                    return
                self._is_mute = True
            if self._denied is not None:  # it is the only one that is awaited, and no chunk before its last counts
                chunk = b""
                if self._answered == self._sent:
                    chunk, self._denied = self._denied, None
            if not self._is_mute:
                await self._proxy.send(self._client_writer, chunk)
            self._passed.set()

    async def _read(self, side: asyncio.StreamReader) -> bytes:
        chunk = await side.read(CHUNK)
        await self._proxy.gate.wait()
        if self._proxy.latency_s:
            await asyncio.sleep(self._proxy.latency_s)
            await self._proxy.gate.wait()
        return chunk


class Proxy:
    """Listens on a free port of 127.0.0.1 and leads to the server at `target`.

    `commands` counts by name what was asked for; `seen` keeps the commands themselves where `keeps` is set.
    """

    def __init__(self, target: int, *, keeps: bool = False) -> None:
        self.target = target
        self.port = 0
        self.latency_s = 0.0
        """How long each chunk takes, in both directions."""
        self.piece_bytes: int | None = None
        """Into how small pieces everything is split."""
        self.bytes_per_s: float | None = None
        self.connects = 0
        self.commands: Counter[str] = Counter()
        self.seen: list[Command] = []
        self.gate = asyncio.Event()
        """Closed while there is a black hole."""
        self._keeps = keeps
        self._faults: list[Fault] = []
        self._links: dict[asyncio.Task[None], Link] = {}
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lose(self, picks: Matcher, loss: Loss, *, nth: int = 1, times: int = 1) -> Fault:
        """Lose the `nth` command that `picks` agrees to, and the `times - 1` after it."""
        fault = Fault(picks, loss, nth, times)
        self._run(self._change(lambda: self._faults.append(fault)))
        return fault

    def answer(
        self, picks: Matcher, error: str | bytes, *, is_done: bool = False, nth: int = 1, times: int = EVER
    ) -> Fault:
        """Answer the commands that `picks` agrees to with an error, or with bytes as they are, until `release`.

        With `is_done` the server does each of them before.
        """
        line = error if isinstance(error, bytes) else f"-{error}\r\n".encode()
        fault = Fault(picks, Loss.DENIAL if is_done else Loss.REFUSAL, nth, times, line)
        self._run(self._change(lambda: self._faults.append(fault)))
        return fault

    def release(self, fault: Fault) -> None:
        """Strike no more, and let the command go on that a HOLD keeps."""
        fault.times = 0
        self._run(self._change(fault.over.set))

    def cut(self) -> None:
        """Reset every connection that there is."""
        self._run(self._cut())

    def darken(self) -> None:
        """Be a black hole: connections stand and can be made, and nothing passes, not even their end."""
        self._run(self._change(self.gate.clear))

    def lighten(self) -> None:
        """Let everything pass again, beginning with what waited."""
        self._run(self._change(self.gate.set))

    def refuse(self) -> None:
        """Reset every connection and take no new ones."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Take connections again."""
        self._run(self._listen())

    def meet(self, command: Command) -> Fault | None:
        """Count a command; return the fault that strikes it."""
        self.commands[command[0].decode().upper()] += 1
        if self._keeps:
            self.seen.append(command)
        for fault in self._faults:
            if fault.strikes(command):
                return fault
        return None

    async def send(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        """Write, as fast and in such pieces as was asked for."""
        size = self.piece_bytes or len(content) or 1
        for first in range(0, len(content), size):
            piece = content[first : first + size]
            writer.write(piece)
            await writer.drain()
            if self.bytes_per_s:
                await asyncio.sleep(len(piece) / self.bytes_per_s)
            elif self.piece_bytes:
                await asyncio.sleep(0)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    async def _change(self, change: Callable[[], object]) -> None:
        change()

    async def _listen(self) -> None:
        if not self.port:
            self.gate.set()
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        link = Link(self, reader, writer)
        if self._listener is None:
            link.cut()
            return
        connected = writer.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.get_running_loop().create_task(link.run())
        self._links[task] = link
        task.add_done_callback(lambda done: self._links.pop(done, None))

    async def _cut(self) -> None:
        for link in list(self._links.values()):
            link.cut()

    async def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # A listener that closes between a connection's accept and its first step leaks that connection (3.11).
            for accepting in listener.sockets:
                self._loop.remove_reader(accepting.fileno())
            await asyncio.sleep(0)
            listener.close()
        await self._cut()

    async def _close(self) -> None:
        await self._refuse()
        self.gate.set()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close a step after they were told to

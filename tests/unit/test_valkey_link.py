"""A connection that breaks before its first request: the request fails at once, on both event loops."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from pspf.connectors.valkey.connection.link import Link


async def _ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_taken_over", [False, True], ids=["before it is taken over", "after"])
def test_a_request_to_a_connection_that_is_closed_fails_as_one_whose_connection_breaks(
    make_loop: Callable[[], asyncio.AbstractEventLoop], is_taken_over: bool
) -> None:
    async def main() -> None:
        async with await asyncio.start_server(_ignore, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            link = Link(writer) if is_taken_over else None
            if is_taken_over:
                writer.transport.set_protocol(asyncio.Protocol())  # who is told that it is lost is not the link
            writer.transport.abort()
            for _ in range(3):
                await asyncio.sleep(0)
            link = link or Link(writer)
            with pytest.raises(EOFError):
                await link.send(b"PING\r\n", 1, 60_000)
            assert not link.is_open
            assert not link.is_busy

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))

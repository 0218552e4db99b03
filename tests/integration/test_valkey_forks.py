"""Forked children, and the connections to a server that they share with their parent."""

import asyncio
import os
import warnings
from pathlib import Path

import pytest

from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.connection.link import OPEN
from tests.support.brokers import KINDS, Kind
from tests.support.workers import TOPIC, new, own, take

SERVERS = [kind for kind in KINDS if kind.name in ("valkey", "redis")]


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
async def test_a_child_that_goes_on_in_the_event_loop_takes_no_connection_from_its_parent(
    kind: Kind, tmp_path: Path
) -> None:
    async with kind.make(tmp_path, Limits(), None) as broker:
        await broker.append(TOPIC, [new("1", "k")])
        member = await own(broker)
        assert len(await take(member.consumer)) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            child = os.fork()
        if child == 0:
            try:  # as an event loop does that ends behind a handler that forked and returned
                for link in list(OPEN):
                    link.abort()
            finally:
                os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        async with asyncio.timeout(3):
            await broker.append(TOPIC, [new("2", "k")])
            assert [record.value for record in await take(member.consumer)] == [b"2"]
            await member.session.close()

"""When a burst is over."""

import asyncio
from collections.abc import Sequence

from pspf.connectors.contract.values import CursorInfo
from pspf.connectors.memory import MemoryBroker
from pspf.runtime.app.work import CursorName, Work
from pspf.runtime.worker.drain import wait_until_drained
from tests.support.waiting import wait_until
from tests.support.workers import GROUP, TOPIC, numbered, settle, share, take_batch


class Busy(MemoryBroker):
    """A broker on which something comes in the middle of the first look: behind the cursors that were looked at."""

    looks = 0

    async def list_cursors(self, *, group: str | None = None, topic: str | None = None) -> Sequence[CursorInfo]:
        found = await super().list_cursors(group=group, topic=topic)
        self.looks += 1
        if self.looks == 1:
            await self.append(TOPIC, numbered(1))
        return found


async def test_a_burst_is_not_over_when_one_look_finds_nothing() -> None:
    async with Busy() as broker:
        member = await share(broker)
        over = asyncio.create_task(wait_until_drained(broker, Work((CursorName(TOPIC, GROUP, None),), ())))

        async def has_looked_again() -> bool:
            return over.done() or broker.looks >= 3

        await wait_until(has_looked_again)
        assert not over.done(), "a record had come meanwhile"
        await member.consumer.commit(settle((await take_batch(member.consumer)).records))
        await asyncio.wait_for(over, 5)

"""Connection of a Stream to its broker: opened on first use, shared by tasks, closed once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pspf.concurrency.shielding import shielded
from pspf.concurrency.turn import Turn
from pspf.connectors.contract.broker import Broker
from pspf.state.base import StateStore
from pspf.stream.topics import TopicToMake, make_topics
from pspf.subscription import Subscription

_HEALTH_S: Final = 5.0


class StreamConnection:
    """The broker and the state store of a Stream, with the topics that it makes.

    `included` are the connections of included Streams, whose topics are among `find_topics`.
    """

    def __init__(
        self,
        find_broker: Callable[[], Broker],
        find_topics: Callable[[], Sequence[TopicToMake]],
        state_store: StateStore | None,
    ) -> None:
        self.is_open = False
        self.included: list[StreamConnection] = []
        self._find_broker = find_broker
        self._find_topics = find_topics
        self._state_store = state_store
        self._turn = Turn()
        """Held while a task connects or disconnects."""

    async def open(self) -> None:
        """Connect unless that is done and the broker is still open; tasks that ask together share the attempt."""
        broker = self._find_broker()
        if self.is_open and broker.is_open:
            return
        caller = object()
        await broker.enter(caller)  # before the turn: tasks that ask together share the wait and the failure
        try:
            async with self._turn:
                await broker.enter(self)
                if not self.is_open:
                    await self._prepare(broker)
        finally:
            await shielded(broker.leave(caller))

    async def close(self) -> None:
        """Disconnect, and the included ones first; a second call does nothing."""
        for each in self.included:
            await each.close()
        async with self._turn:
            if not self.is_open:
                return
            self.is_open = False
            try:
                if self._state_store is not None:
                    await self._state_store.stop()
            finally:
                await self._find_broker().leave(self)

    async def health(self, *, is_running: bool) -> dict[str, str]:
        """Return `{"status": "ok", "backend": "connected"}`, or `"error"` and a `reason`; never raises."""
        broker: Broker | None = None
        try:
            async with asyncio.timeout(_HEALTH_S):
                broker = self._find_broker()
                if self.is_open or is_running:
                    await broker.ping()
                else:
                    await _ping_once(broker)
        except TimeoutError:
            name = "the broker" if broker is None else broker.name
            return {"status": "error", "reason": f"no answer from {name} within {_HEALTH_S:.0f} s"}
        except Exception as error:  # a health check never raises: the error is its answer
            return {"status": "error", "reason": str(error) or type(error).__name__}
        return {"status": "ok", "backend": "connected"}

    async def _prepare(self, broker: Broker) -> None:
        try:
            await make_topics(broker, self._find_topics())
            if self._state_store is not None:
                await self._state_store.start()
        except BaseException:
            await shielded(broker.leave(self))
            raise
        self.is_open = True


async def register_cursors(broker: Broker, session_name: str | None, subscriptions: Sequence[Subscription]) -> None:
    """Make the cursors of all handlers, and no others: one without a reader would hold back retention."""
    session = await broker.open_session(session_name)
    try:
        for each in subscriptions:
            if each.beside:
                from pspf.engine.inputs.topics import make_alike  # start-up: few have such a handler

                await make_alike(each, broker, session.count_partitions)
            for topic in each.topics:
                await session.register(topic, each.group, each.cursor_handler, start=each.start)
    finally:
        await session.close()


async def _ping_once(broker: Broker) -> None:
    """Open the broker for one ping, and close it again."""
    caller = object()
    try:
        await broker.enter(caller)
        await broker.ping()
    finally:
        await broker.leave(caller)

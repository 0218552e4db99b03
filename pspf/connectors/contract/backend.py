"""The backend handle of users: one topic and one group on a broker."""

from collections.abc import Mapping
from typing import Any

import orjson

from pspf.connectors.contract.broker import Broker
from pspf.records import (
    NewRecord,
    check_name,
    encode_headers,
)


class StreamingBackend:
    """One topic and one group on a broker: the handle that users construct and streams hold.

    Making one opens nothing. `broker` is shared by all clones of a backend.
    """

    def __init__(self, broker: Broker, stream_key: str, group_name: str) -> None:
        self.broker = broker
        self.stream_key = check_name("topic", stream_key)
        self.group_name = check_name("group", group_name)

    def clone_with_topic(self, topic: str) -> "StreamingBackend":
        """Return a backend of the same broker and group for another topic; opens nothing."""
        return StreamingBackend(self.broker, topic, self.group_name)

    async def connect(self) -> None:
        """Open the broker; a second call does nothing."""
        await self.broker.connect()

    async def close(self) -> None:
        """Close the broker; what it stores stays."""
        await self.broker.close()

    async def ping(self) -> None:
        """Answer, or raise BackendUnavailable."""
        await self.broker.ping()

    async def ensure_group_exists(self) -> None:
        """Make the topic and the group's shared cursors, where the broker has any, as far as they are missing."""
        if not self.broker.capabilities.shared:
            await self.broker.create_topic(self.stream_key)
            return
        session = await self.broker.open_session()
        try:
            await session.register(self.stream_key, self.group_name, None)
        finally:
            await session.close()

    async def add_event(
        self, event: Mapping[str, Any], *, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> str:
        """Append one JSON object as it is; return its record id."""
        raw_key = None if key is None else key.encode()
        record = NewRecord(raw_key, orjson.dumps(dict(event)), encode_headers(headers))
        return (await self.broker.append(self.stream_key, [record]))[0].id

    async def get_pending_info(self) -> dict[str, Any]:
        """Return `{"pending": n, "lag": n or None, "consumers": {id: n}}` of this topic and group.

        `pending` counts what was delivered and is not done: in hand, held back or waiting for a retry.
        """
        cursors = await self.broker.list_cursors(group=self.group_name, topic=self.stream_key)
        consumers = [c for c in await self.broker.list_consumers(group=self.group_name) if c.topic == self.stream_key]
        lags = [c.lag for c in cursors]
        return {
            "pending": sum(c.pending + c.held_back + c.retries for c in cursors),
            "lag": None if None in lags else sum(lag for lag in lags if lag is not None),
            "consumers": {c.consumer: c.pending for c in consumers},
        }

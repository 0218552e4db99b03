"""The memory broker: the embedded one's code on a private database, for tests."""

from pspf.clock import Clock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.broker import MemoryBroker

__all__ = ["MemoryBackend", "MemoryBroker"]


class MemoryBackend(StreamingBackend):
    """A broker of its own, in this process alone; its clones share it."""

    def __init__(
        self,
        *,
        stream_key: str = "events",
        group_name: str = "default",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(MemoryBroker(limits, clock), stream_key, group_name)

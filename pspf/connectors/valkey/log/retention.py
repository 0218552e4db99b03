"""Retention: a partition is trimmed now and then, by one script that knows every group's floor."""

from collections.abc import Callable
from typing import Any, Final

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.connection.scripts import Argument, ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.keys import CursorKeys, PartitionKeys
from pspf.connectors.valkey.log.topics import Topics

_TRIM: Final = load_script("trim")
_EVERY_MS: Final = 1_000
_SCAN_COST: Final = 1_000
"""So many waiting records are looked through in a second's turn; more of them make the turns rarer."""


class Trimmer:
    """Trims a partition at most once a second. Safe from any process: the script reads all floors itself."""

    def __init__(self, topics: Topics, limits: Limits, clock: Clock, now: Callable[[], str]) -> None:
        self._topics = topics
        self._limits = limits
        self._clock = clock
        self._now = now
        self._due_ms: dict[bytes, int] = {}
        self._cursors: dict[bytes, tuple[bytes, list[CursorKeys]]] = {}

    def look_again(self, keys: PartitionKeys) -> None:
        """Have a partition's turn come at once: a cursor was made."""
        self._due_ms.pop(keys.stream, None)

    def forget_cursors(self) -> None:
        """Ask again which cursors there are: a server that went back in time counts them from an earlier number."""
        self._cursors = {}

    async def trim_if_due(self, lane: Lane, topic: str, partition: int) -> None:
        """Trim one partition, unless that was done a moment ago."""
        keys = (await self._topics.ensure(topic)).partition(partition)
        while (call := self.make_call_if_due(keys)) is not None:
            self.settle(keys, await lane.run(call.script, call.keys, call.arguments))

    def is_due(self, keys: PartitionKeys) -> bool:
        """Whether a partition's turn has come."""
        return self._clock.monotonic_ms() >= self._due_ms.get(keys.stream, 0)

    def make_call_if_due(self, keys: PartitionKeys) -> ScriptCall | None:
        """Return the script to run where a partition's turn has come; `settle` takes its reply."""
        if not self.is_due(keys):
            return None
        self._due_ms[keys.stream] = self._clock.monotonic_ms() + _EVERY_MS
        version, cursors = self._cursors.get(keys.stream, (b"0", []))  # 0: none was ever made
        all_keys = [keys.stream, keys.meta, keys.cursors, keys.floors]
        groups: list[Argument] = []
        for cursor in cursors:
            all_keys += [cursor.meta, cursor.due]
            groups.append("" if cursor.handler else cursor.group)
        return ScriptCall(_TRIM, all_keys, [self._now(), self._limits.retention_ms, version, *groups])

    def settle(self, keys: PartitionKeys, reply: Any) -> None:
        """Take the script's reply: what it saw, or which cursors there are by now."""
        if isinstance(reply[0], bytes):
            version, fields = reply
            self._cursors[keys.stream] = (version, [parse_cursor(keys, field) for field in fields])
            self._due_ms[keys.stream] = 0
            return
        trimmed, scanned = reply
        wait_ms = 0 if trimmed else _EVERY_MS * (1 + scanned // _SCAN_COST)
        self._due_ms[keys.stream] = self._clock.monotonic_ms() + wait_ms


def parse_cursor(keys: PartitionKeys, field: bytes) -> CursorKeys:
    """Return the cursor that a field of a partition's `cursors` names."""
    group, _, handler = field.decode().partition("\0")
    return keys.cursor(group, handler or None)

"""The roster on a Valkey or Redis server: three kinds of keys in one hash slot.

`pspf:{workers}:until` sorted set, worker -> when it is shown no longer; `pspf:{workers}:status` hash,
worker -> `milliseconds status`; `pspf:{workers}:commands:WORKER` list, which expires.
"""

from collections.abc import Sequence
from typing import Any, Final

from pspf.connectors.contract.roster import Roster, WorkerInfo
from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.connection.wire import BLOCK_MARGIN_MS
from pspf.connectors.valkey.log.core import Core
from pspf.errors import NotFound

_UNTIL: Final = b"pspf:{workers}:until"
_STATUS: Final = b"pspf:{workers}:status"
_COMMANDS_MS: Final = 60_000
_SHOW: Final = load_script("show_worker")


def _commands_of(worker: str) -> bytes:
    return b"pspf:{workers}:commands:%b" % worker.encode()


class ValkeyRoster(Roster):
    """The roster of a server."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting = core.pool.open_lane(_UNTIL, "roster")

    async def publish(self, worker: str, status: bytes, *, ttl_ms: int) -> None:
        await self._core.lane_for(_UNTIL).run(
            _SHOW, (_UNTIL, _STATUS), (self._core.now(), worker, status, ttl_ms, _COMMANDS_MS)
        )

    async def withdraw(self, worker: str) -> None:
        await self._call(
            [("ZREM", _UNTIL, worker), ("HDEL", _STATUS, worker), ("DEL", _commands_of(worker))],
            "withdraw a worker's status",
        )

    async def list_workers(self) -> Sequence[WorkerInfo]:
        time, until, statuses = await self._call(
            [("TIME",), ("ZRANGE", _UNTIL, 0, -1, "WITHSCORES"), ("HGETALL", _STATUS)], "list workers"
        )
        now_ms = self._now_ms(time)
        texts = dict(zip(statuses[::2], statuses[1::2], strict=True))
        shown: list[WorkerInfo] = []
        for name, until_ms in sorted(zip(until[::2], until[1::2], strict=True)):
            if name in texts and float(until_ms) > now_ms:
                at_ms, _, status = texts[name].partition(b" ")
                shown.append(WorkerInfo(name.decode(), status, max(0, now_ms - int(at_ms))))
        return shown

    async def send(self, worker: str, command: bytes) -> None:
        time, until_ms = await self._call([("TIME",), ("ZSCORE", _UNTIL, worker)], "find a worker")
        if until_ms is None or float(until_ms) <= self._now_ms(time):
            raise NotFound(f"no worker {worker!r} is running")
        key = _commands_of(worker)
        await self._call([("RPUSH", key, command), ("PEXPIRE", key, _COMMANDS_MS)], "leave a command for a worker")

    async def take_commands(self, worker: str, *, wait_ms: int = 0) -> Sequence[bytes]:
        key = _commands_of(worker)
        first: list[bytes] = []
        if wait_ms:
            timeout_ms = wait_ms + BLOCK_MARGIN_MS
            found = await self._waiting.call("BLPOP", key, f"{wait_ms / 1000:.3f}", timeout_ms=timeout_ms)
            if found is None:
                return []
            first.append(found[1])
        # A COUNT makes the reply a list, or nil where there is none; the key goes with its last element.
        return first + (await self._core.lane_for(key).call("LPOP", key, 1_000) or [])

    async def _call(self, commands: Sequence[tuple[bytes | str | int, ...]], doing: str) -> list[Any]:
        lane = self._core.lane_for(_UNTIL)
        return [lane.check(reply, doing) for reply in await lane.call_many(commands)]

    def _now_ms(self, time: Sequence[bytes]) -> int:
        if self._core.has_own_clock:
            return self._core.clock.now_ms()
        return int(time[0]) * 1_000 + int(time[1]) // 1_000

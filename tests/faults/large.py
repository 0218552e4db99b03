"""Very much of what a server keeps for PSPF, put there in a moment, and how long its scripts then take."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Final

from tests.faults.valkey import Site, find_scripts
from tests.support.proxy import Command, Fault, Proxy
from tests.support.servers import Server
from tests.support.workers import GROUP, HANDLER, TOPIC, own, share

MANY: Final = 100_000
FAR_MS: Final = 1 << 42
KEYS: Final = 100
"""The records that wait have so many keys, in turn; the first of each waits for its retry, the others behind it."""

_AT_ONCE: Final = 10_000
"""A script that runs for seconds has a server answer BUSY to everybody else."""

_FILL: Final = """
local stream, meta, due, retry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local first, count, keys = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local far, group, ordered = ARGV[4], ARGV[5], ARGV[6] == '1'
local last = redis.call('XINFO', 'STREAM', stream)[8]
for number = first, count do
  local key = 'k' .. number % keys
  last = redis.call('XADD', stream, '*', 'data', number - 1, 'key', key)
  redis.call('ZADD', due, (ordered and number > keys) and '+inf' or far, last)
  redis.call('HSET', retry, last, '1 - ' .. #key .. ' ' .. key .. 'ValueError: no')
end
local high, low = string.match(last, '^(%d+)-(%d+)$')
redis.call('HSET', meta, 'position', high .. '-' .. string.format('%.0f', low + 1), 'passed', count)
redis.call('XGROUP', 'SETID', stream, group, last, 'ENTRIESREAD', count)
"""


async def fill_waiting(site: Site, *, handler: str | None = HANDLER, count: int = MANY, keys: int = KEYS) -> None:
    """Give a cursor `count` records that were read and wait for a retry; an ordered one has most of them held back."""
    async with site.broker(direct=True) as broker:
        member = await (own(broker) if handler else share(broker))
        await member.consumer.release()
        partition = (await broker._core.topics.get(TOPIC)).partition(0)
        cursor = partition.cursor(GROUP, handler)
        where = [partition.stream, cursor.meta, cursor.due, cursor.retry]
        with site.server.client(database=site.database) as client:
            for first in range(0, count, _AT_ONCE):
                last = min(count, first + _AT_ONCE)
                client.eval(_FILL, 4, *where, first + 1, last, keys, FAR_MS, cursor.group_name, "1" if handler else "")


class Meter(Proxy):
    """A proxy that finds out how long the server computes at a stretch: nobody else is answered meanwhile.

    Its own processor time, which a busy machine does not stretch.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server.port)
        self._path = Path(f"/proc/{server.pid}/schedstat")
        self._last = ("", self._read_ns())
        self._runs: defaultdict[str, list[float]] = defaultdict(list)
        self._names = {script.sha: script.name for script in find_scripts()}

    def _read_ns(self) -> int:
        return int(self._path.read_text(encoding="ascii").split()[0])

    def meet(self, command: Command) -> Fault | None:
        self.note(command)
        return super().meet(command)

    def note(self, command: Command = ()) -> None:
        """Note what the last command took, now that the next one comes."""
        (name, before), now = self._last, self._read_ns()
        self._runs[name].append((now - before) / 1_000_000)
        name = command[0].decode() if command else ""
        self._last = (self._names[command[1].decode()] if name == "EVALSHA" else name, now)

    @property
    def longest(self) -> dict[str, float]:
        """Of each command, and of each script by its name, the ms that nine of ten runs stay below.

        Of less than ten it is the longest one. The host of a virtual machine stretches processor time, too.
        """
        self.note()
        return {name: sorted(runs)[math.ceil(len(runs) * 0.9) - 1] for name, runs in self._runs.items()}

    @property
    def ms(self) -> float:
        """The longest stretch of all."""
        return max(self.longest.values())

"""What a worker costs while its server answers an error: commands and log lines, for each mode.

`python -m tests.faults.sweep [NAME ...]` prints a table, with PSPF_SWEEP_SECONDS (30) for each error.

Counted are all commands that reach the proxy while the error stands, whether they are struck or not: those
that set up a connection, those that answer well in between, and what a worker without errors sends as well.
Nothing is to be handled meanwhile. Log lines are those of INFO and above.
"""

import asyncio
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pspf import Count, Stream, TumblingWindow
from pspf.connectors.contract.limits import Limits
from tests.faults.valkey import Site
from tests.integration.running import Number, until
from tests.support.proxy import EVER, Command, Fault, Loss, Matcher, Proxy
from tests.support.servers import hall

PARTITIONS: Final = 8
MODES: Final = ("shared", "ordered", "list", "window")
SETTLE_S: Final = 1.0
LIMITS: Final = Limits()

_SET_UP: Final = {b"CLIENT", b"SELECT", b"AUTH", b"HELLO", b"PING"}
_READS: Final = {b"XREADGROUP", b"XREAD"}
_SCRIPTS: Final = {b"EVALSHA", b"EVAL"}


def everything(command: Command) -> bool:
    """Pick all commands but those that set up a connection."""
    return command[0].upper() not in _SET_UP


def set_up_too(command: Command) -> bool:
    """Pick all commands."""
    return True


def reads(command: Command) -> bool:
    """Pick what reads new records."""
    return command[0].upper() in _READS


def evalsha(command: Command) -> bool:
    """Pick scripts by their hash."""
    return command[0].upper() == b"EVALSHA"


def all_scripts(command: Command) -> bool:
    """Pick scripts."""
    return command[0].upper() in _SCRIPTS


def not_reads(command: Command) -> bool:
    """Pick all but what reads new records, and what sets up a connection."""
    return everything(command) and not reads(command)


Start = Callable[[Proxy], Callable[[], None]]
"""Begins an error, and returns what ends it."""


def answering(error: str | bytes, picks: Matcher, *, is_done: bool = False) -> Start:
    """Return what has commands answered by an error."""

    def start(proxy: Proxy) -> Callable[[], None]:
        fault: Fault = proxy.answer(picks, error, is_done=is_done)
        return lambda: proxy.release(fault)

    return start


def refusing(proxy: Proxy) -> Callable[[], None]:
    """Refuse connections."""
    proxy.refuse()
    return proxy.accept


def darkening(proxy: Proxy) -> Callable[[], None]:
    """Be a black hole."""
    proxy.darken()
    return proxy.lighten


def resetting(picks: Matcher) -> Start:
    """Return what has commands answered by a reset of their connection."""

    def start(proxy: Proxy) -> Callable[[], None]:
        fault = proxy.lose(picks, Loss.REQUEST, times=EVER)
        return lambda: proxy.release(fault)

    return start


TEXTS: Final = {
    "NOGROUP": "NOGROUP No such key 'numbers' or consumer group 'g' in XREADGROUP with GROUP option",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "NOPERM": "NOPERM User default has no permissions to run the 'x' command",
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGTYPE": "WRONGTYPE Operation against a key holding the wrong kind of value",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "MOVED": "MOVED 3999 127.0.0.1:6381",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNKILLABLE": "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "UNBLOCKED": "UNBLOCKED client unblocked via CLIENT UNBLOCK",
    "EXECABORT": "EXECABORT Transaction discarded because of previous errors.",
    "ERR": "ERR something that nobody has heard of",
}
ENDS: Final = {"WRONGTYPE", "MOVED", "EXECABORT", "ERR"}
"""A worker may end at once with that error: it is none that goes away."""

ERRORS: Final[dict[str, Start]] = {
    **{name: answering(text, everything) for name, text in TEXTS.items()},
    **{f"{name} of reads": answering(text, reads) for name, text in TEXTS.items()},
    **{f"{name} of all but reads": answering(text, not_reads) for name, text in TEXTS.items()},
    "NOSCRIPT of hashes": answering(TEXTS["NOSCRIPT"], evalsha),
    "NOSCRIPT of scripts": answering(TEXTS["NOSCRIPT"], all_scripts),
    "NOAUTH of set-up too": answering(TEXTS["NOAUTH"], set_up_too),
    "LOADING of set-up too": answering(TEXTS["LOADING"], set_up_too),
    "garbage": answering(b"\x00what\r\n", everything),
    "reset": resetting(everything),
    "reset of reads": resetting(reads),
    "reset of all but reads": resetting(not_reads),
    "refused": refusing,
    "black hole": darkening,
}


@dataclass(slots=True)
class Cost:
    """What an error cost one process."""

    mode: str
    span_s: float
    commands: Counter[str]
    lines: list[str]
    ended: BaseException | None = None

    @property
    def per_s(self) -> float:
        """Commands a second."""
        return self.commands.total() / self.span_s

    def __str__(self) -> str:
        most = ", ".join(f"{name} {count}" for name, count in self.commands.most_common(6))
        end = f" ended: {self.ended!r:.160}" if self.ended else ""
        said = "".join(f"\n      {line:.200}" for line in self.lines)
        return f"{self.mode:8} {self.per_s:6.1f}/s  {len(self.lines)} lines  ({most}){end}{said}"


@dataclass(eq=False)
class Ear(logging.Handler):
    """Keeps the log lines of PSPF."""

    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block lasts. The level is the caller's to set: others listen meanwhile."""
        logger = logging.getLogger("pspf")
        assert logger.isEnabledFor(logging.INFO)
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


def topic_of(site: Site, mode: str) -> str:
    """Return the topic of a mode's stream, by which its log lines are told from those of others."""
    return f"in-{mode}-{site.database:02}"


def make_stream(site: Site, mode: str) -> Stream:
    """Return a stream whose one handler is of a mode; its topic and group are named for it."""
    topic = topic_of(site, mode)
    stream = Stream(site.backend(LIMITS, topic=topic, group=f"g-{mode}"), partitions=PARTITIONS)
    if mode == "shared":

        @stream.subscribe(topic, name="handle")
        async def handle(event: Number) -> None: ...

    elif mode == "ordered":

        @stream.subscribe(topic, ordering="key", name="handle")
        async def handle_in_order(event: Number) -> None: ...

    elif mode == "list":

        @stream.subscribe(topic, name="handle")
        async def handle_many(events: list[Number]) -> None: ...

    else:
        stream.window(topic, TumblingWindow(1_000), to="out", emit="final", name="handle")(Count())
    return stream


async def measure(site: Site, mode: str, start: Start | None, *, ramp_s: float, span_s: float) -> Cost:
    """Run a worker, begin an error, and count over `span_s` from `ramp_s` after."""
    proxy, ear = site.proxy, Ear()
    stream = make_stream(site, mode)
    task = asyncio.create_task(stream.run_forever())
    end: Callable[[], object] = bool
    try:
        await until(lambda: len(stream.telemetry.activities) == PARTITIONS or task.done(), within_ms=30_000)
        await asyncio.sleep(SETTLE_S)
        with ear.listening():
            end = await asyncio.to_thread(start, proxy) if start is not None else end
            await asyncio.sleep(ramp_s)
            before = proxy.commands.copy()
            await asyncio.sleep(span_s)
            sent = proxy.commands - before
        mine = [line for line in ear.lines if f":{proxy.port}" in line or topic_of(site, mode) in line]
        error = task.exception() if task.done() and not task.cancelled() else None
        return Cost(mode, span_s, sent, mine, error)
    finally:
        await asyncio.to_thread(end)
        await stream.stop()
        await asyncio.gather(task, return_exceptions=True)


async def measure_all(folder: Path, start: Start | None, *, ramp_s: float, span_s: float) -> list[Cost]:
    """Measure all modes at once, each with a database and a proxy of its own."""
    shared = hall("valkey")

    async def one(mode: str) -> Cost:
        with Proxy(shared.server.port) as proxy:
            site = Site(shared.server, proxy, shared.database_of(folder / mode))
            return await measure(site, mode, start, ramp_s=ramp_s, span_s=span_s)

    return list(await asyncio.gather(*map(one, MODES)))


def main(names: list[str]) -> None:
    """Print a table."""
    span_s = float(os.environ.get("PSPF_SWEEP_SECONDS", "30"))
    ramp_s = float(os.environ.get("PSPF_SWEEP_RAMP_SECONDS", "0"))
    logging.getLogger("pspf").setLevel(logging.INFO)
    for name in names or ["none", *ERRORS]:
        with tempfile.TemporaryDirectory() as folder:
            start = None if name == "none" else ERRORS[name]
            costs = asyncio.run(measure_all(Path(folder), start, ramp_s=ramp_s, span_s=span_s))
        print(name)
        for cost in costs:
            print("   ", cost, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

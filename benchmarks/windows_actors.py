"""What the windows' benchmark measures, each in a process of its own: `python -m benchmarks.windows_actors NAME '{}'`.

An actor prints one line of JSON. `seconds` are from connecting to the last commit, `cpu_seconds` those of all
threads of the process in that time; `results` and `counted` say what came out, for whoever started it to check.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
import orjson
import uvloop

from benchmarks.actors import open_stream
from benchmarks.bids import TOPIC, Bid, Bids
from benchmarks.handlers import get_ready
from pspf import Count, Max, SlidingWindow, Stream, TumblingWindow
from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.records import NewRecord

COMMIT: Final = 1_000
"""How many events the loop by hand takes for a commit."""
LOOK_S: Final = 0.02

State = dict[str, int]


class StructBid(msgspec.Struct):
    """The same bid as msgspec reads it."""

    event_type: str
    timestamp: datetime
    key: str
    auction: int
    bidder: int
    price: int
    channel: str
    url: str


async def fill(*, path: str, total: int, keys: int, per_second: int, skip: int = 0) -> dict[str, Any]:
    """Append bids as they are, but for the first `skip`."""
    broker = SQLiteBroker(Path(path))
    await broker.connect()
    records: list[NewRecord] = []
    for number, (key, value) in enumerate(Bids(total, keys, per_second).payloads()):
        if number >= skip:
            records.append(NewRecord(key, value))
        if len(records) == 5_000:
            await broker.append(TOPIC, records)
            records.clear()
    await broker.append(TOPIC, records)
    await broker.close()
    return {}


async def count_and_max(bid: Bid | StructBid, state: State | None) -> State:
    """Return how many bids there were, and the highest."""
    if state is None:
        return {"bids": 1, "top": bid.price}
    state["bids"] += 1
    if bid.price > state["top"]:
        state["top"] = bid.price
    return state


def register(stream: Stream, kind: str, sizes_ms: list[int], to: str, on_event: Callable[[], None] | None) -> None:
    """Give a Stream its window: `kind` is `handler`, `struct` (a handler of msgspec Structs) or `ready`."""
    window = TumblingWindow(*sizes_ms) if len(sizes_ms) == 1 else SlidingWindow(*sizes_ms)
    schema = StructBid if kind == "struct" else Bid
    add = stream.window(TOPIC, window, emit="final", to=to, schema=schema, name="hot")
    if kind == "ready":
        add({"bids": Count(), "top": Max("price")})
    elif on_event is None:
        add(count_and_max)
    else:
        tell = on_event

        async def tell_and_count(bid: Bid | StructBid, state: State | None) -> State:
            tell()
            return await count_and_max(bid, state)

        add(tell_and_count)


async def aggregate(*, path: str, total: int, group: str, kind: str, sizes_ms: list[int]) -> dict[str, Any]:
    """PSPF aggregates all bids; with `slowest` comes the rate of the slowest tenth of them."""
    stream = open_stream(path, group=group)
    register(stream, kind, sizes_ms, f"hot-{group}", None)
    progress: list[tuple[float, int]] = []

    async def watch() -> None:
        # A large window is closed beside what comes, and behind it.
        while not progress or progress[-1][1] < total or not stream.processor.is_at_rest:
            await asyncio.sleep(LOOK_S)
            progress.append((time.perf_counter(), sum(each.processed for each in stream.telemetry.snapshot())))
        await stream.stop()

    cpu, started = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        tasks.create_task(stream.run_forever())
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    results = await read_results(path, f"hot-{group}")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "slowest": slowest_tenth(progress, total), **results}


def slowest_tenth(progress: list[tuple[float, int]], total: int) -> float:
    """Return the lowest rate at which a tenth of the events went, in events/s."""
    slowest, begin = float("inf"), 0
    for at, done in progress:
        while done - progress[begin][1] >= total / 10:
            slowest = min(slowest, (done - progress[begin][1]) / (at - progress[begin][0]))
            begin += 1
    return slowest


async def read_results(path: str, topic: str) -> dict[str, int]:
    """Return how many results there are, and how many bids they counted."""
    broker = SQLiteBroker(Path(path))
    await broker.connect()
    results = counted = offset = 0
    while records := await broker.read(topic, 0, offset=offset, max_records=10_000):
        results += len(records)
        counted += sum(orjson.loads(record.value)["value"]["bids"] for record in records)
        offset = records[-1].offset + 1
    await broker.close()
    return {"results": results, "counted": counted}


async def restart(*, path: str, group: str, sizes_ms: list[int]) -> dict[str, Any]:
    """Return how long a worker takes from connecting to the first event that is handled, on windows that are open."""
    stream = open_stream(path, group=group)
    is_handled = asyncio.Event()
    first: list[float] = []

    def tell() -> None:
        if not first:
            first.append(time.perf_counter())
            is_handled.set()

    register(stream, "handler", sizes_ms, f"hot-{group}", tell)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stream.run_forever())
        await is_handled.wait()
        await stream.stop()
    return {"seconds": first[0] - started}


async def aggregate_by_hand(*, path: str, total: int, group: str, sizes_ms: list[int]) -> dict[str, Any]:
    """The loop that one would write without PSPF, over the same file: decode, fold, and one transaction a batch.

    What changed in the windows, the results of those that closed and the offset are in it.
    """
    [size_ms] = sizes_ms
    decode = msgspec.json.Decoder(StructBid).decode
    cpu, started = time.process_time(), time.perf_counter()
    log: Any = apsw.Connection(path)
    log.set_busy_timeout(10_000)
    database: Any = apsw.Connection(f"{path}-{group}")
    database.execute(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE states (start INTEGER, key TEXT, bids INTEGER, top INTEGER, PRIMARY KEY (start, key))"
        " WITHOUT ROWID; CREATE TABLE results (id INTEGER PRIMARY KEY, value BLOB);"
        "CREATE TABLE places (place INTEGER); INSERT INTO places VALUES (0)"
    ).fetchall()
    windows: dict[int, dict[str, tuple[int, int]]] = {}
    next_end_ms: float = float("inf")
    place = handled = 0
    while rows := log.execute(
        "SELECT place, value FROM records WHERE place > ? ORDER BY place LIMIT ?", (place, min(COMMIT, total - handled))
    ).fetchall():
        dirty: set[tuple[int, str]] = set()
        closed: list[int] = []
        out: list[tuple[bytes]] = []
        for _, value in rows:
            bid = decode(value)
            time_ms = int(bid.timestamp.timestamp() * 1_000)
            if time_ms >= next_end_ms:
                for start in sorted(start for start in windows if start + size_ms <= time_ms):
                    closed.append(start)
                    for key, (bids, top) in sorted(windows.pop(start).items()):
                        result = {
                            "event_type": "WindowResult",
                            "window_start_ms": start,
                            "window_end_ms": start + size_ms,
                            "key": key,
                            "value": {"bids": bids, "top": top},
                        }
                        out.append((orjson.dumps(result),))
                next_end_ms = min(windows, default=float("inf")) + size_ms
            start = time_ms - time_ms % size_ms
            window = windows.get(start)
            if window is None:
                window = windows[start] = {}
                next_end_ms = min(next_end_ms, start + size_ms)
            state = window.get(bid.key)
            price = bid.price
            window[bid.key] = (1, price) if state is None else (state[0] + 1, price if price > state[1] else state[1])
            dirty.add((start, bid.key))
        place = rows[-1][0]
        handled += len(rows)
        database.execute("BEGIN IMMEDIATE")
        for start in closed:
            database.execute("DELETE FROM states WHERE start = ?", (start,))
        database.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)",
            [(start, key, *windows[start][key]) for start, key in sorted(dirty) if start in windows],
        )
        database.executemany("INSERT INTO results (value) VALUES (?)", out)
        database.execute("UPDATE places SET place = ?", (place,))
        database.execute("COMMIT")
        if handled == total:
            break
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    written = [orjson.loads(value) for (value,) in database.execute("SELECT value FROM results").fetchall()]
    log.close()
    database.close()
    counted = sum(each["value"]["bids"] for each in written)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "results": len(written), "counted": counted}


ACTORS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    actor.__name__: actor for actor in (fill, aggregate, restart, aggregate_by_hand)
}


def main() -> None:
    """Run the actor that the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    get_ready()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def run() -> dict[str, Any]:
            return await ACTORS[name](**arguments)

        print(json.dumps(runner.run(run())))


if __name__ == "__main__":
    main()

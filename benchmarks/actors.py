"""What is measured, each in a process of its own: `python -m benchmarks.actors NAME '{"argument": ...}'`.

An actor prints one line of JSON. Both loops share the event model, the handler and the event loop.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import orjson
import uvloop

from benchmarks.events import BATCH, TOPIC, Stamped, Tick, ready_dicts
from benchmarks.handlers import get_ready, make_handler, pace, run_until
from pspf import Stream
from pspf.connectors.sqlite import SQLiteBackend


def open_stream(path: str, *, group: str = "bench") -> Stream:
    """Return a Stream on the broker file at `path`."""
    return Stream(SQLiteBackend(path, stream_key=TOPIC, group_name=group))


async def fill(*, path: str, total: int) -> dict[str, Any]:
    """Emit the events that the consumers will read; return the mean size of a payload in bytes."""
    events = ready_dicts(total, with_ids=True)
    async with open_stream(path) as stream:
        for first in range(0, total, BATCH):
            await stream.emit_many(events[first : first + BATCH], TOPIC)
    return {"bytes": sum(len(json.dumps(event, separators=(",", ":"))) for event in events[:BATCH]) / BATCH}


async def consume(*, path: str, total: int, group: str) -> dict[str, Any]:
    """PSPF handles all events, from connecting to the last commit; return the seconds."""
    stream = open_stream(path, group=group)
    handle, is_complete = make_handler(total)
    stream.subscribe(TOPIC, batch_size=BATCH)(handle)
    started = time.perf_counter()
    await run_until(stream, is_complete)
    seconds = time.perf_counter() - started
    backend = SQLiteBackend(path, stream_key=TOPIC, group_name=group)
    await backend.connect()
    lag = (await backend.get_pending_info())["lag"]
    await backend.close()
    if lag != 0:
        raise SystemExit(f"lag {lag} after {total} events: this run measured nothing")
    return {"seconds": seconds}


async def consume_by_hand(*, path: str, total: int, group: str) -> dict[str, Any]:
    """The loop that one would write without PSPF, over the same file; return the seconds."""
    handle, is_complete = make_handler(total)
    validate = Tick.__pydantic_validator__.validate_json
    started = time.perf_counter()
    database: Any = apsw.Connection(path)
    database.set_busy_timeout(10_000)
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS by_hand (name TEXT PRIMARY KEY, place INTEGER NOT NULL)")
    database.execute("INSERT INTO by_hand VALUES (?, 0)", (group,))
    place: Any = 0
    while rows := database.execute(
        "SELECT place, value FROM records WHERE place > ? ORDER BY place LIMIT ?", (place, BATCH)
    ).fetchall():
        for _, value in rows:
            await handle(validate(value))
        place = rows[-1][0]
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE by_hand SET place = ? WHERE name = ?", (place, group))
        database.execute("COMMIT")
    database.close()
    seconds = time.perf_counter() - started
    if not is_complete.is_set():
        raise SystemExit(f"the file has fewer than {total} events: this run measured nothing")
    return {"seconds": seconds}


async def emit(*, path: str, total: int, with_ids: bool) -> dict[str, Any]:
    """`emit_many` ready dicts in batches; return the seconds."""
    events = ready_dicts(total, with_ids=with_ids)
    async with open_stream(path) as stream:
        started = time.perf_counter()
        for first in range(0, total, BATCH):
            await stream.emit_many(events[first : first + BATCH], TOPIC)
        return {"seconds": time.perf_counter() - started}


async def emit_by_hand(*, path: str, total: int, with_ids: bool) -> dict[str, Any]:
    """Insert the same events into a table of one's own, one transaction a batch; return the seconds.

    With ids a unique index on the text refuses the second of a kind, which is the least that could be done.
    """
    events = ready_dicts(total, with_ids=with_ids)
    connection = apsw.Connection(path)
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA synchronous=FULL").fetchall()
    unique = ", event_id TEXT UNIQUE" if with_ids else ", event_id TEXT"
    connection.execute(f"CREATE TABLE log (position INTEGER PRIMARY KEY, key BLOB, value BLOB{unique})").fetchall()
    started = time.perf_counter()
    for first in range(0, total, BATCH):
        rows = [(e["key"].encode(), orjson.dumps(e), e.get("event_id")) for e in events[first : first + BATCH]]
        connection.execute("BEGIN IMMEDIATE").fetchall()
        connection.executemany("INSERT OR IGNORE INTO log (key, value, event_id) VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT").fetchall()
    seconds = time.perf_counter() - started
    connection.close()
    return {"seconds": seconds}


async def emit_slowly(*, path: str, total: int, per_second: float) -> dict[str, Any]:
    """Emit a warm-up, then one event now and then, each with the moment of the call in it."""
    warm_up, *events = ready_dicts(total + 1, with_ids=False)
    async with open_stream(path) as stream:
        await stream.emit(warm_up | {"sent_ns": 0}, TOPIC)
        for event in events:
            await pace(per_second)
            await stream.emit(event | {"sent_ns": time.time_ns()}, TOPIC)
    return {}


async def receive(*, path: str, total: int) -> dict[str, Any]:
    """Return the ms from the call of `emit` in another process to the handler's first line, per event.

    Prints `ready` at the first warm-up: from then on both the reader and its wake-up are at work.
    """
    stream = open_stream(path)
    latencies: list[float] = []
    is_complete = asyncio.Event()

    @stream.subscribe(TOPIC)
    async def handle(event: Stamped) -> None:
        now_ns = time.time_ns()
        if event.sent_ns == 0:
            print("ready", flush=True)
            return
        latencies.append((now_ns - event.sent_ns) / 1e6)
        if len(latencies) == total:
            is_complete.set()

    await run_until(stream, is_complete)
    return {"latencies_ms": latencies}


async def idle(*, path: str, seconds: float) -> dict[str, Any]:
    """Return the share of a core that a worker with nothing to do uses."""
    stream = open_stream(path)
    is_over = asyncio.Event()

    @stream.subscribe(TOPIC)
    async def handle(event: Tick) -> None:
        raise SystemExit(f"an idle worker was given {event}")

    async def watch() -> float:
        await asyncio.sleep(2)  # past the start
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu) / (time.perf_counter() - started)
        is_over.set()
        return share

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        tasks.create_task(run_until(stream, is_over))
    return {"share": watching.result()}


ACTORS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    actor.__name__: actor for actor in (fill, consume, consume_by_hand, emit, emit_by_hand, emit_slowly, receive, idle)
}


def main() -> None:
    """Run the actor that the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    if not Path(arguments["path"]).parent.is_dir():
        raise SystemExit(f"no folder for {arguments['path']}")
    loop_name = arguments.pop("loop", "uvloop")
    get_ready()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop_name == "uvloop" else None) as runner:

        async def run() -> dict[str, Any]:
            return await ACTORS[name](**arguments)

        print(json.dumps(runner.run(run())))


if __name__ == "__main__":
    main()

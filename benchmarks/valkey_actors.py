"""What is measured on a server, each in a process of its own: `python -m benchmarks.valkey_actors NAME '{...}'`.

An actor prints one line of JSON. PSPF's are here, those of `peers_X.Y` are function Y of `benchmarks.peers_X`.
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.events import BATCH, TOPIC, Stamped, Tick, ready_dicts
from benchmarks.handlers import get_ready, make_handler, pace, run_until
from pspf import Stream, ValkeyConnector, ValkeyStreamBackend


def open_backend(port: int, group: str) -> ValkeyStreamBackend:
    """Return a backend on the server at `port`."""
    return ValkeyStreamBackend(ValkeyConnector(host="127.0.0.1", port=port), TOPIC, group)


async def fill(*, port: int, total: int) -> dict[str, Any]:
    """Emit the events that the consumers will read; return the mean size of a payload in bytes."""
    events = ready_dicts(total, with_ids=True)
    async with Stream(open_backend(port, "fill")) as stream:
        for first in range(0, total, BATCH):
            await stream.emit_many(events[first : first + BATCH], TOPIC)
    return {"bytes": sum(len(json.dumps(event, separators=(",", ":"))) for event in events[:BATCH]) / BATCH}


async def consume(*, port: int, total: int, group: str) -> dict[str, Any]:
    """PSPF handles all events, from connecting to the last commit; return the seconds."""
    handle, is_complete = make_handler(total)
    stream = Stream(open_backend(port, group))
    stream.subscribe(TOPIC, batch_size=BATCH)(handle)
    started = time.perf_counter()
    await run_until(stream, is_complete)
    seconds = time.perf_counter() - started
    backend = open_backend(port, group)
    await backend.connect()
    lag = (await backend.get_pending_info())["lag"]
    await backend.close()
    if lag != 0:
        raise SystemExit(f"lag {lag} after {total} events: this run measured nothing")
    return {"seconds": seconds}


async def emit(*, port: int, total: int, topic: str) -> dict[str, Any]:
    """`emit_many` ready dicts in batches; return the seconds."""
    events = ready_dicts(total, with_ids=False)
    async with Stream(open_backend(port, "emit")) as stream:
        started = time.perf_counter()
        for first in range(0, total, BATCH):
            await stream.emit_many(events[first : first + BATCH], topic)
        return {"seconds": time.perf_counter() - started}


async def emit_slowly(*, port: int, total: int, per_second: float, group: str) -> dict[str, Any]:
    """Emit a warm-up, then one event now and then, each with the moment of the call in it."""
    warm_up, *events = ready_dicts(total + 1, with_ids=False)
    async with Stream(open_backend(port, group)) as stream:
        await stream.emit(warm_up | {"sent_ns": 0}, TOPIC)
        for event in events:
            await pace(per_second)
            await stream.emit(event | {"sent_ns": time.time_ns()}, TOPIC)
    return {}


async def receive(*, port: int, total: int, group: str) -> dict[str, Any]:
    """Return the ms from the call of `emit` in another process to the handler's first line, per event.

    Prints `ready` at the first warm-up: from then on both sides are at work.
    """
    stream = Stream(open_backend(port, group))
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


async def idle(*, port: int, seconds: float) -> dict[str, Any]:
    """Return the share of a core that a worker with nothing to do uses; prints `ready` when it is past its start."""
    stream = Stream(open_backend(port, "idle"))
    is_over = asyncio.Event()

    @stream.subscribe(TOPIC)
    async def handle(event: Tick) -> None:
        raise SystemExit(f"an idle worker was given {event}")

    async def watch() -> float:
        await asyncio.sleep(3)
        print("ready", flush=True)
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
    actor.__name__: actor for actor in (fill, consume, emit, emit_slowly, receive, idle)
}


def find(name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Return an actor; a peer's module is loaded only here, for its libraries may be missing."""
    module, _, function = name.rpartition(".")
    if not module:
        return ACTORS[name]
    actor: Callable[..., Awaitable[dict[str, Any]]] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return actor


def main() -> None:
    """Run the actor that the command line names."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    loop_name = arguments.pop("loop", "uvloop")
    get_ready()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop_name == "uvloop" else None) as runner:

        async def run() -> dict[str, Any]:
            return await find(name)(**arguments)

        print(json.dumps(runner.run(run())))


if __name__ == "__main__":
    main()

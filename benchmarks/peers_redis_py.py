"""What one would write by hand on redis-py's client with hiredis, in the format of PSPF's streams."""

import asyncio
import time
from typing import Any

import hiredis
import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from benchmarks.events import BATCH, TOPIC, Stamped, Tick, ready_dicts
from benchmarks.handlers import make_handler, pace

BLOCK_MS = 2_000


def connect(port: int) -> Any:
    """Return a client that resends nothing, as PSPF's."""
    return Redis(port=port, retry=Retry(NoBackoff(), 0))


async def join(client: Any, group: str, start: str) -> None:
    """Make the group where it is missing."""
    try:
        await client.xgroup_create(TOPIC, group, start, mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


async def consume(*, port: int, total: int, group: str) -> dict[str, Any]:
    """XREADGROUP COUNT 500, `validate_json`, `await handler`, one XACK a batch; return the seconds."""
    handle, is_complete = make_handler(total)
    validate = Tick.__pydantic_validator__.validate_json
    started = time.perf_counter()
    async with connect(port) as client:
        await join(client, group, "0")
        while not is_complete.is_set():
            reply = await client.xreadgroup(group, "by-hand", {TOPIC: ">"}, count=BATCH, block=BLOCK_MS)
            entries = reply[0][1]
            for _, fields in entries:
                await handle(validate(fields[b"data"]))
            await client.xack(TOPIC, group, *[entry_id for entry_id, _ in entries])
        seconds = time.perf_counter() - started
        if (await client.xpending(TOPIC, group))["pending"]:
            raise SystemExit("the loop by hand left entries pending: this run measured nothing")
    return {"seconds": seconds}


async def emit(*, port: int, total: int, topic: str) -> dict[str, Any]:
    """A pipeline of XADDs for each batch of ready dicts; return the seconds."""
    events = ready_dicts(total, with_ids=False)
    async with connect(port) as client:
        await client.ping()
        started = time.perf_counter()
        for first in range(0, total, BATCH):
            async with client.pipeline(transaction=False) as pipeline:
                for event in events[first : first + BATCH]:
                    pipeline.xadd(topic, {"data": orjson.dumps(event), "key": event["key"]})
                await pipeline.execute()
        return {"seconds": time.perf_counter() - started}


async def emit_packed(*, port: int, total: int, topic: str) -> dict[str, Any]:
    """The same commands packed by hiredis into one send a batch, their replies read in one go; return the seconds."""
    events = ready_dicts(total, with_ids=False)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    pack: Any = hiredis.pack_command
    replies = hiredis.Reader(notEnoughData=writer)
    started = time.perf_counter()
    for first in range(0, total, BATCH):
        batch = events[first : first + BATCH]
        writer.write(
            b"".join([pack((b"XADD", topic, b"*", b"data", orjson.dumps(e), b"key", e["key"])) for e in batch])
        )
        left = len(batch)
        while left:
            replies.feed(await reader.read(1 << 16))
            while (reply := replies.gets()) is not writer:
                if isinstance(reply, Exception):
                    raise SystemExit(f"the server refused: {reply}")
                left -= 1
    seconds = time.perf_counter() - started
    writer.close()
    await writer.wait_closed()
    return {"seconds": seconds}


async def emit_slowly(*, port: int, total: int, per_second: float, group: str) -> dict[str, Any]:
    """XADD a warm-up, then one event now and then, each with the moment of the call in it."""
    warm_up, *events = ready_dicts(total + 1, with_ids=False)
    async with connect(port) as client:
        await client.xadd(TOPIC, {"data": orjson.dumps(warm_up | {"sent_ns": 0})})
        for event in events:
            await pace(per_second)
            await client.xadd(TOPIC, {"data": orjson.dumps(event | {"sent_ns": time.time_ns()})})
    return {}


async def receive(*, port: int, total: int, group: str) -> dict[str, Any]:
    """Return the ms from the call of XADD in another process to the handler's first line, per event."""
    validate = Stamped.__pydantic_validator__.validate_json
    latencies: list[float] = []

    async def handle(event: Stamped) -> None:
        now_ns = time.time_ns()
        if event.sent_ns == 0:
            print("ready", flush=True)
        else:
            latencies.append((now_ns - event.sent_ns) / 1e6)

    async with connect(port) as client:
        await join(client, group, "0")
        while len(latencies) < total:
            reply = await client.xreadgroup(group, "by-hand", {TOPIC: ">"}, count=BATCH, block=BLOCK_MS)
            for _, entries in reply or ():
                for _, fields in entries:
                    await handle(validate(fields[b"data"]))
                await client.xack(TOPIC, group, *[entry_id for entry_id, _ in entries])
    return {"latencies_ms": latencies}

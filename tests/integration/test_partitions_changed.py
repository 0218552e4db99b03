"""A topic that comes back with another number of partitions under a worker that reads it."""

import contextlib
import json
from pathlib import Path

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.errors import NotFound, TopicMismatch
from tests.integration.running import GROUP, TOPIC, Number, numbers, running, until
from tests.support.brokers import Kind
from tests.support.workers import new

LIMITS = Limits(lease_ms=800, renew_ms=200, synchronous="NORMAL")
LONG_MS = 30_000


async def replace_topic(broker: Broker, partitions: int) -> None:
    """Delete the topic and make it anew, before a worker makes it again as it was."""
    while True:
        with contextlib.suppress(NotFound):
            await broker.operations.delete_topic(TOPIC, force=True)
        try:
            await broker.create_topic(TOPIC, partitions=partitions)
        except TopicMismatch:
            continue
        return


@pytest.mark.parametrize(("before", "after"), [(2, 5), (4, 2), (1, 3)])
@pytest.mark.parametrize("mode", ["shared", "ordered", "list"])
async def test_a_worker_reads_all_partitions_of_a_topic_that_comes_back_with_others(
    kind: Kind, tmp_path: Path, mode: str, before: int, after: int
) -> None:
    backend = StreamingBackend(kind.make(tmp_path, LIMITS, None), TOPIC, GROUP)
    other = kind.make(tmp_path, LIMITS, None) if kind.is_shared else backend.broker
    stream = Stream(backend, partitions=before)
    seen: set[int] = set()
    if mode == "list":

        @stream.subscribe(TOPIC, name="handle")
        async def handle_many(events: list[Number]) -> None:
            seen.update(event.n for event in events)

    else:

        @stream.subscribe(TOPIC, ordering="key" if mode == "ordered" else "none", name="handle")
        async def handle(event: Number) -> None:
            seen.add(event.n)

    keys = "abcdefghijklmnop"
    async with other, running(stream):
        await stream.emit_many(numbers(20, keys=keys))
        await until(lambda: len(seen) == 20, within_ms=LONG_MS)
        await replace_topic(other, after)
        await until(
            lambda: {each.partition for each in stream.telemetry.activities} == set(range(after)), within_ms=LONG_MS
        )
        await other.append(TOPIC, [new(json.dumps(each), each["key"]) for each in numbers(40, keys=keys, start=100)])
        await until(lambda: {n for n in seen if n >= 100} == set(range(100, 140)), within_ms=LONG_MS)
        infos = [info for info in await other.list_cursors() if info.cursor.topic == TOPIC]
        assert {info.cursor.partition for info in infos} == set(range(after))

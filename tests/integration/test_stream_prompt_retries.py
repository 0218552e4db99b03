"""A read that is under way when a batch is committed learns what the commit made due."""

import asyncio
import time
from typing import Any

import pytest

from pspf import RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from tests.integration.running import TOPIC, Number, drain, numbers, read_letters, running, until


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_retry_on_an_idle_topic_runs_when_it_is_due(backend: StreamingBackend, ordering: Any) -> None:
    stream = Stream(backend)
    runs: list[float] = []

    @stream.subscribe(TOPIC, ordering=ordering, retry=RetryPolicy(3, initial_ms=100, max_ms=100, jitter=0))
    async def handle(event: Number) -> None:
        await asyncio.sleep(0.02)  # so that the next read is waiting when this fails
        runs.append(time.monotonic())
        if len(runs) == 1:
            raise ValueError("once")

    async with running(stream):
        await asyncio.sleep(0.6)  # past the first look of the broker's own accord
        await stream.emit_many(numbers(1))
        await until(lambda: len(runs) == 2)
        await drain(stream)
    assert 0.1 <= runs[1] - runs[0] < 0.35


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_a_retry_that_is_due_at_once_is_still_this_workers(backend: StreamingBackend, ordering: Any) -> None:
    """The read that waits may claim it before the commit that put it off has told this worker."""
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering=ordering, retry=RetryPolicy(3, initial_ms=0, max_ms=0))
    async def handle(event: Number) -> None:
        await asyncio.sleep(0)
        raise ValueError("always")

    async with running(stream):
        for n in range(30):
            await stream.emit_many(numbers(1, start=n))
            await drain(stream)
    assert [letter.attempts for letter in await read_letters(backend.broker)] == [3] * 30

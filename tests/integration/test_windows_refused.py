"""What windows refuse: event times that are too far ahead, and results that can't be made, behind a hop too."""

import logging
from typing import Any

import orjson
import pytest

from pspf import Stream, Sum, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from tests.integration.running import read_events, read_letters, run_until_drained, running, wait_until


@pytest.mark.parametrize("key", [None, "colour"], ids=["in place", "behind a hop"])
async def test_an_event_time_too_far_ahead_is_warned_of_once_with_its_place(
    backend: StreamingBackend, caplog: pytest.LogCaptureFixture, key: str | None
) -> None:
    stream = Stream(backend)
    options: dict[str, Any] = {"key": key} if key else {}
    if key is not None:
        await stream.broker.connect()
        await stream.broker.create_topic("ticks", partitions=2)
    stream.window("ticks", TumblingWindow(10_000), name="w", emit="final", to="out", **options)(Sum("v"))
    far = {"timestamp": "2999-01-01T00:00:00Z", "v": 1, "key": "k", "colour": "red"}
    ids = await stream.emit_many([far, far, far], "ticks")
    with caplog.at_level(logging.WARNING):
        await run_until_drained(stream)
    told = [entry.getMessage() for entry in caplog.records if entry.name == "pspf.events.timestamps"]
    assert len(told) == 1
    assert "ticks" in told[0]
    assert "2999-01-01T00:00:00" in told[0]
    assert f"offset {ids[0]}" in told[0]
    assert "max_future_ms=" in told[0]
    assert len(await read_letters(stream.broker)) == 3


# Letters of results behind a hop


async def test_the_letter_of_a_result_behind_a_hop_is_found_under_the_topic_that_is_read(
    backend: StreamingBackend,
) -> None:
    def show(result: object) -> dict[str, int]:
        raise RuntimeError("not now")

    stream = Stream(backend)
    await stream.broker.connect()
    await stream.broker.create_topic("ticks", partitions=2)
    stream.window("ticks", TumblingWindow(10_000), name="w", emit="final", to="out", key="colour", result=show)(
        Sum("v")
    )
    await stream.emit_many([{"timestamp": at, "v": 1, "key": "k", "colour": "red"} for at in (1, 2, 30)], "ticks")

    async def is_buried() -> bool:
        return bool(await read_letters(stream.broker))

    async with running(stream):
        await wait_until(is_buried)
    (letter,) = await read_letters(stream.broker)
    assert (letter.topic, letter.is_result) == ("ticks", True)
    assert await stream.broker.replay_dead_letters([letter], to="again") == 1
    (found,) = await read_events(stream.broker, "again")
    assert (found["key"], found["value"]) == ("red", 2)
    assert orjson.loads(letter.record.value)["window_start_ms"] == 0

"""Large records are read a few at a time, so that a worker's memory has a bound."""

from pathlib import Path

import pytest

from pspf import Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from tests.integration.running import TOPIC, Number, run_until_drained
from tests.support.workers import HANDLER, own, share, take, take_all
from tests.support.workers import new as new_record

TEXT = "x" * 200_000
COUNT = 150


class Large(Number):
    text: str = ""


async def test_a_fixed_batch_of_large_records_is_smaller(backend: StreamingBackend) -> None:
    stream = Stream(backend)
    sizes: list[int] = []

    @stream.subscribe(TOPIC, batch_size=1_000, name="handle")
    async def handle(events: list[Large]) -> None:
        sizes.append(len(events))

    await stream.emit_many([{"n": n, "text": TEXT} for n in range(COUNT)])
    await run_until_drained(stream)
    assert sum(sizes) == COUNT
    assert sizes[0] <= 100
    assert max(sizes[1:]) <= 8_000_000 // len(TEXT)


@pytest.mark.parametrize("handler", [None, HANDLER], ids=["shared", "ordered"])
async def test_a_poll_of_the_file_stops_at_large_records_and_loses_none(tmp_path: Path, handler: str | None) -> None:
    async with SQLiteBroker(tmp_path / "broker.db", Limits(synchronous="NORMAL")) as broker:
        await broker.append("orders", [new_record(b"small") for _ in range(50)])
        await broker.append("orders", [new_record(b"x" * 900_000) for _ in range(40)])
        member = await (own(broker) if handler else share(broker))
        first = await take(member.consumer)
        assert 50 < len(first) < 80
        rest = await take_all(member.consumer)
        assert len({record.offset for record in (*first, *rest)}) == 90

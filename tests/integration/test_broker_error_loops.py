"""No error of the embedded broker's file that stands is a hot loop, or fills the log.

`PSPF_SWEEP_SECONDS` is for how long each error stands (3). Counted are the statements that are refused.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from pspf import Count, Stream, TumblingWindow
from pspf.clock import SystemClock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.broker import SQLBroker
from pspf.connectors.sqlite.engine.threaded import ThreadEngine
from pspf.connectors.sqlite.liveness import FileLiveness
from pspf.connectors.sqlite.membership import read_boot_id
from pspf.connectors.sqlite.storage import Row, Storage
from tests.integration.running import Number, running, until

SPAN_S: Final = float(os.environ.get("PSPF_SWEEP_SECONDS", "3"))
MOST_PER_S: Final = 20.0
CALM_S: Final = 10.0
PARTITIONS: Final = 8
ERRORS: Final = (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError)


class Refusing(Storage):
    """A database that refuses statements while it has an `error`."""

    error: type[apsw.Error] | None = None
    refused = 0

    def _refuse(self) -> None:
        if self.error is not None:
            self.refused += 1
            raise self.error("injected")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        self._refuse()
        return super().rows(sql, values)

    def row(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        self._refuse()
        return super().row(sql, values)

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        if not sql.startswith("ROLLBACK"):
            self._refuse()
        return super().run(sql, values)


async def test_errors_that_stand_are_met_seldom_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    met = await asyncio.gather(*(meet(error, tmp_path / f"{error.__name__}.db", caplog) for error in ERRORS))
    for error, refused, said in zip(ERRORS, *zip(*met, strict=True), strict=True):
        print(f"{error.__name__}: {refused} statements refused; {said}")
        assert refused <= MOST_PER_S * max(SPAN_S, CALM_S), error
        assert len(said) <= 1 + SPAN_S / 10, said


async def meet(error: type[apsw.Error], path: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, list[str]]:
    """Let all statements of a worker fail for a while; return how many did, and what was said meanwhile."""
    limits = Limits(synchronous="NORMAL")
    storage = Refusing(path, limits)
    engine = ThreadEngine(storage, SystemClock(), limits)
    broker = SQLBroker(engine, FileLiveness(path), limits, read_boot_id())
    stream = Stream(StreamingBackend(broker, path.stem, "g"), partitions=PARTITIONS)
    seen: list[int] = []

    @stream.subscribe(path.stem, name="shared")
    async def shared(event: Number) -> None:
        seen.append(event.n)

    @stream.subscribe(path.stem, ordering="key", name="ordered")
    async def ordered(event: Number) -> None: ...

    @stream.subscribe(path.stem, name="many", group="h")
    async def many(events: list[Number]) -> None: ...

    stream.window(path.stem, TumblingWindow(1_000), to="out", emit="final", name="window", group="w")(Count())

    async with running(stream):
        await until(lambda: len(stream.telemetry.activities) == 4 * PARTITIONS, within_ms=30_000)
        lines = len(caplog.records)
        storage.error = error
        await asyncio.sleep(SPAN_S)
        refused, said = storage.refused, [each.getMessage() for each in caplog.records[lines:]]
        storage.error = None
        await stream.emit({"n": 1, "key": "a"})
        await until(lambda: seen == [1], within_ms=30_000)
    assert all(any(each.__name__ in line for each in ERRORS) for line in said), "who said what"
    return refused, [line for line in said if path.stem in line]

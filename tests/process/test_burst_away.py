"""A burst's time is kept while its broker is away: from the start, or from some time on."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.commands import Folder
from tests.support.proxy import Proxy
from tests.support.servers import hall

SPAN_S = 1.0
LATE_S = 7.0
"""How much later the command may have ended: its start, one that gives up, a last look at the lag."""
MODES = pytest.mark.parametrize("mode", [(), ("--in-process",)], ids=["processes", "in-process"])


@pytest.fixture
def proxy(folder: Folder, tmp_path: Path) -> Iterator[Proxy]:
    shared = hall("valkey")
    with Proxy(shared.server.port) as made:
        folder.environment["PSPF_BACKEND"] = shared.server.url(database=shared.database_of(tmp_path), port=made.port)
        yield made


def run_burst(folder: Folder, *more: str) -> tuple[int, float, str]:
    """Return the exit code of a burst, what it took in seconds, and what it said."""
    begun = time.monotonic()
    ended = folder.pspf("worker", "--burst", "--burst-timeout", f"{SPAN_S:.0f}s", "--admin", "off", *more)
    return ended.code, time.monotonic() - begun, ended.err


@MODES
@pytest.mark.parametrize("is_mute", [False, True], ids=["refuses", "mute"])
def test_a_server_that_is_away_from_the_start(
    folder: Folder, proxy: Proxy, mode: tuple[str, ...], *, is_mute: bool
) -> None:
    if is_mute:
        proxy.darken()
    else:
        proxy.refuse()
    code, seconds, said = run_burst(folder, *mode)
    assert (code, SPAN_S <= seconds <= SPAN_S + LATE_S) == (9, True), (seconds, said)
    assert "the broker was not there within 1000 ms" in said


@MODES
def test_a_server_that_goes_away_while_a_handler_runs(folder: Folder, proxy: Proxy, mode: tuple[str, ...]) -> None:
    event = {"n": 1, "key": "k", "do": "sleep", "seconds": SPAN_S / 2}
    folder.run("emit", "orders", json.dumps(event))
    with folder.worker("--burst", "--burst-timeout", f"{SPAN_S:.0f}s", "--admin", "off", *mode) as worker:
        begun = time.monotonic()
        worker.wait_for("start 1")
        proxy.refuse()
        assert worker.end(within_s=SPAN_S + LATE_S + 5) == 9, worker.log.read_text()
    assert time.monotonic() - begun <= SPAN_S + LATE_S


@MODES
def test_a_file_whose_writers_lock_another_program_keeps(folder: Folder, mode: tuple[str, ...]) -> None:
    folder.emit()
    descriptor = os.open(folder.path / ".pspf" / "broker.db.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        code, seconds, said = run_burst(folder, *mode, "--drain-timeout", "1s")
    finally:
        os.close(descriptor)
    assert (code, seconds <= SPAN_S + LATE_S) == (9, True), (seconds, said)

"""What a worker logs of records whose keys and errors were made to spoil it."""

import json
import logging
from collections.abc import Iterator

import pytest

from pspf import BaseEvent, MemoryBackend, RetryPolicy, Stream
from pspf.runtime.worker.logs import FORMATS, configure_logging
from tests.integration.running import GROUP, TOPIC, run_until_drained

EVIL = [
    "\n2026-01-01T00:00:00.000Z 1 ERROR pspf: forged",
    "\x1b[2J\x1b[31m",
    '"}\n{"level": "ERROR"}',
    "\u202e\u2028",
    "k" * 900,
]
COUNT = 200


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("pspf")
    before = logger.level, logger.propagate, logger.handlers[:]
    logger.handlers.clear()
    yield
    logger.level, logger.propagate, logger.handlers[:] = before


@pytest.mark.parametrize("log_format", [each for each in FORMATS if each != "rich"])
async def test_each_dead_letter_is_a_line_whatever_its_key_and_error_hold(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(MemoryBackend(stream_key=TOPIC, group_name=GROUP))

    @stream.subscribe(TOPIC, ordering="key", retry=RetryPolicy(max_attempts=1), name="refuse")
    async def refuse(event: BaseEvent) -> None:
        raise ValueError(f"{event.key} {'x' * 100_000}")

    configure_logging("INFO", log_format)
    await stream.emit_many([{"key": f"{EVIL[n % len(EVIL)]}{n}"} for n in range(COUNT)])
    await run_until_drained(stream, within_ms=60_000)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("    ")]
    dead = [line for line in lines if "dead after attempt 1/1" in line]
    assert len(dead) == COUNT
    assert len(lines) == COUNT + 1  # the first is told once more, with its frames
    assert all(len(line) < 2_000 and line.isprintable() for line in lines)
    if log_format == "json":
        assert {json.loads(line)["handler"] for line in lines} == {"refuse"}

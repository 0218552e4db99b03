"""The threads of a worker process: what they meet ends none of them, and what they are told next still works."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine, Generator
from contextlib import closing, suppress
from typing import Any

import pytest

from pspf import Stream
from pspf.connectors.memory import MemoryBackend
from pspf.runtime.status.reports import Pulse, ReportPipe, decode_report
from pspf.runtime.worker.child import _obey
from pspf.runtime.worker.heartbeat import Heartbeat
from pspf.runtime.worker.monitor import Monitor
from pspf.runtime.worker.shutdown import Stages
from tests.support.waiting import wait_until


class Reader:
    """What a supervisor reads of a process's reports."""

    def __init__(self) -> None:
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._text = b""
        self.is_written_on = False
        """Whether a thread goes on writing to it."""

    def pulses(self) -> int:
        """Return how many pulses have come."""
        with suppress(BlockingIOError):  # nothing new
            self._text += os.read(self._read_fd, 1 << 20)
        return sum(isinstance(decode_report(line), Pulse) for line in self._text.splitlines())

    def close(self) -> None:
        os.close(self._read_fd)
        if not self.is_written_on:
            os.close(self.write_fd)


def make_monitor(failures: list[BaseException]) -> Monitor:
    """Return a monitor that meets each of `failures` once."""

    def read_stage() -> str:
        if failures:
            raise failures.pop(0)
        return "running"

    return Monitor(Stream(MemoryBackend(), topic="orders", group="billing"), read_stage, lambda subscription: True)


@pytest.mark.parametrize("error", [KeyError("a mistake"), SystemExit()], ids=["mistake", "exit"])
async def test_a_heart_beats_on_after_a_beat_that_failed(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Reader()) as reader:
        failures = [error, error]
        reader.is_written_on = True
        Heartbeat(make_monitor(failures), ReportPipe(reader.write_fd)).start()

        async def has_beaten() -> bool:
            return reader.pulses() > 1

        await wait_until(has_beaten)
        assert not failures
    assert caplog.text.count("telling the supervisor what this process is at failed") == 1  # not once a beat


def test_the_last_beat_of_a_process_hides_nothing_behind_its_own_failure() -> None:
    with closing(Reader()) as reader:
        heart = Heartbeat(make_monitor([KeyError("a mistake")]), ReportPipe(reader.write_fd))
        heart.beat()
        heart.beat()
        assert reader.pulses() == 1


class Odd(Coroutine[None, None, None]):
    """A coroutine of another library, which can't be looked into."""

    @property
    def cr_frame(self) -> Any:
        raise ValueError("not to be seen")

    def send(self, value: None) -> None:
        raise StopIteration

    def throw(self, *error: Any) -> None:
        raise StopIteration

    def close(self) -> None: ...

    def __await__(self) -> Generator[None, None, None]:
        yield


async def test_whoever_asks_where_the_tasks_are_is_answered() -> None:
    monitor = make_monitor([])
    monitor.begin()
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    monitor.ask_tasks(answer.set_result)
    odd = asyncio.get_running_loop().create_task(Odd())
    assert "can't tell where the tasks are: ValueError" in await asyncio.wait_for(answer, 5)
    await odd


class Told(Stages):
    """Stages that only write down what they are told."""

    def __init__(self) -> None:
        self.told: list[int | None] = []

    def begin_drain(self, *, timeout_ms: int | None = None, late_code: int = 0) -> None:
        self.told.append(timeout_ms)


def test_a_command_that_makes_no_sense_hides_none_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    stages = Told()
    with closing(Reader()) as reader:
        heart = Heartbeat(make_monitor([]), ReportPipe(reader.write_fd))
        bad = (b"no json", b"[" * 100_000, b'{"do": "log level", "level": "LOUD"}')
        _obey(iter([*bad, b'{"do": "drain", "timeout_ms": 5}']), stages, heart)
    assert stages.told == [5, 500]
    assert caplog.text.count("a command of the supervisor failed") == 3


def test_a_process_drains_when_its_supervisor_can_not_be_heard_any_more() -> None:
    def commands() -> Generator[bytes, None, None]:
        raise OSError(5, "Input/output error")
        yield b""

    stages = Told()
    with closing(Reader()) as reader:
        heart = Heartbeat(make_monitor([]), ReportPipe(reader.write_fd))
        with pytest.raises(OSError, match="Input"):
            _obey(commands(), stages, heart)
    assert stages.told == [500]


STUCK = """
import time
from pspf.runtime.worker.shutdown import Stages

def fail():
    raise {error}

stages = Stages(drain_timeout_ms=10, drain=lambda: None, give_up=fail)
stages.begin_drain()
time.sleep(60)
"""


@pytest.mark.parametrize("error", ["ValueError('no')", "SystemExit"])
def test_a_process_that_can_not_even_give_up_is_gone_in_time(error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK.format(error=error)], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 143, done.stderr
    assert "what was due at a deadline failed" in done.stderr

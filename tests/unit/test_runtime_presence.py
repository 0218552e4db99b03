"""A worker in the roster: what it is told after something failed still reaches it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.memory import MemoryBackend
from pspf.errors import BackendCorrupt, BackendGone, ConfigurationError
from pspf.observability.worker_status import WorkerStatus
from pspf.runtime.control.presence import Presence, PresenceThread, WorkerCommand
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]

Answer = Callable[[Mapping[str, Any]], None]


class Worker:
    """A worker that notes what it is told, and fails at what it is told to fail at."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.failing_looks: list[BaseException] = []

    def describe(self) -> WorkerStatus:
        if self.failing_looks:
            raise self.failing_looks.pop()
        return WorkerStatus("running")

    def obey(self, command: WorkerCommand, answer: Answer) -> None:
        self.told.append(command.do)
        if command.do == "fail":
            raise ZeroDivisionError("a mistake")
        answer({"ok": command.do})


def command(do: str, **fields: Any) -> bytes:
    return json.dumps({"id": f"id-{do}", "do": do, **fields}).encode()


async def read_status(broker: Broker) -> dict[str, Any]:
    """Return what the worker shows; nothing while it shows nothing."""
    workers = await broker.roster.list_workers()
    found: dict[str, Any] = json.loads(workers[0].status) if workers else {}
    return found


async def until_answered(broker: Broker, command_id: str) -> Mapping[str, Any]:
    """Return a command's answer, once it is shown."""

    async def is_answered() -> bool:
        return command_id in (await read_status(broker)).get("answers", {})

    await wait_until(is_answered)
    answer: Mapping[str, Any] = (await read_status(broker))["answers"][command_id]
    return answer


@pytest.mark.parametrize(
    "bad",
    [b"no json", b"5", b'{"id": 1}', b"[" * 200_000, command("fail"), b'["id", "do"]', b"\xff"],
    ids=["text", "number", "half", "deep", "failing", "list", "bytes"],
)
async def test_a_stop_behind_a_bad_command_is_obeyed(bad: bytes) -> None:
    async with MemoryBackend().broker as broker:
        worker = Worker()
        presence = Presence(broker, "w", "app", worker.describe, worker.obey)
        task = asyncio.create_task(presence.run())
        try:

            async def is_shown() -> bool:
                return bool(await read_status(broker))

            await wait_until(is_shown)
            await broker.roster.send("w", bad)
            await broker.roster.send("w", command("stop"))
            assert await until_answered(broker, "id-stop") == {"ok": "stop"}
            if bad == command("fail"):
                assert "ZeroDivisionError" in (await until_answered(broker, "id-fail"))["error"]
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize(
    ("errors", "has_traceback"),
    [
        ((KeyError("a mistake"), KeyError("a mistake")), True),
        ((ConfigurationError("not permitted"), BackendCorrupt("no number")), False),
    ],
    ids=["a mistake", "the roster refuses"],
)
async def test_a_worker_that_can_not_be_shown_for_a_while_is_shown_later(
    caplog: pytest.LogCaptureFixture, errors: tuple[Exception, ...], *, has_traceback: bool
) -> None:
    async with MemoryBackend().broker as broker:
        worker = Worker()
        worker.failing_looks = [*errors]
        task = asyncio.create_task(Presence(broker, "w", "app", worker.describe, worker.obey).run())
        try:

            async def is_shown() -> bool:
                return bool(await read_status(broker))

            await wait_until(is_shown)
            assert caplog.text.count("can't show this worker") == 1
            assert ("Traceback" in caplog.text) == has_traceback
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def fail(error: BackendGone) -> None:
    raise AssertionError(error)


WITHOUT_DESCRIPTORS = """
import asyncio, sys, time
from pathlib import Path
from pspf.connectors.sqlite import SQLiteBroker
from pspf.observability.worker_status import WorkerStatus
from pspf.runtime.control.presence import Presence, PresenceThread
from tests.support.descriptors import no_descriptors

def presence():
    return Presence(SQLiteBroker(Path(sys.argv[1])), "w", "app", WorkerStatus, lambda command, answer: answer({}))

for ends_without in (True, False):
    thread = PresenceThread(presence(), print)
    with no_descriptors():
        thread.__enter__()
        time.sleep(0.05)
        if ends_without:
            thread.__exit__()
            print("ended", flush=True)

async def main():
    async with SQLiteBroker(Path(sys.argv[1])) as broker:
        while not await broker.roster.list_workers():
            await asyncio.sleep(0.02)
        print("shown", flush=True)

asyncio.run(main())
thread.__exit__()
"""


def test_a_presence_that_finds_no_descriptor_holds_nobody_up_and_is_there_later(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS, str(tmp_path / "b.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, cwd=ROOT)
    assert done.stdout.split() == ["ended", "shown"], done.stderr
    assert "the thread that shows this worker in the broker failed" in done.stderr
    assert done.returncode == 0


async def test_a_presence_that_ended_in_its_thread_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    async with MemoryBackend().broker as broker:
        worker = Worker()
        worker.failing_looks = [SystemExit()]
        with PresenceThread(Presence(broker, "w", "app", worker.describe, worker.obey), fail):

            async def is_shown() -> bool:
                return bool(await read_status(broker))

            await wait_until(is_shown)
            await broker.roster.send("w", command("stop"))
            assert await until_answered(broker, "id-stop") == {"ok": "stop"}
        assert "the thread that shows this worker in the broker failed" in caplog.text

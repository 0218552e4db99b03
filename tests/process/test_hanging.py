"""A handler that hangs: it holds up its own partition, and is seen."""

import os
import signal

import pytest

from tests.process.commands import Folder, wait_until

FAST = {"PSPF_RESTART_INITIAL_MS": "100"}

HANGING = """
import asyncio
from pspf import BaseEvent, Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders", ordering="key", name="charge")
async def charge(order: BaseEvent):
    print("begun", order.key, order.n)
    if order.n == 0:
        await asyncio.Event().wait()
    print("charged", order.key, order.n)


@stream.subscribe("orders", ordering="key", name="audit")
async def audit(order: BaseEvent):
    print("seen", order.key, order.n)
"""


def write_app(folder: Folder) -> None:
    (folder.path / "hanging.py").write_text(HANGING)
    folder.ok("topics", "create", "orders", "--partitions", "4")


def emit(folder: Folder, n: int, *keys: str) -> None:
    for key in keys:
        folder.ok("emit", "orders", f'{{"n": {n}}}', "-k", key)


def test_a_call_that_hangs_when_its_process_ends_holds_up_nobody_else_after_it(folder: Folder) -> None:
    folder.environment |= FAST
    write_app(folder)
    emit(folder, 0, "hang")
    with folder.worker("hanging:stream") as worker:
        worker.wait_for("begun hang 0")
        for times in (2, 3):  # from the second time on it is known to have been in hand
            os.kill(worker.children()[0], signal.SIGKILL)
            worker.wait_for("begun hang 0", times=times)
            emit(folder, times, *"acdef")
            for key in "acdef":  # none of them is in the partition of the one that hangs
                worker.wait_for(f"charged {key} {times}")
                worker.wait_for(f"seen {key} {times}")
        assert worker.says("which may have ended the process before, has run alone for 5 s")


def test_what_a_handler_has_in_hand_is_listed_as_pending(folder: Folder) -> None:
    write_app(folder)
    emit(folder, 0, "hang")
    with folder.worker("hanging:stream") as worker:
        worker.wait_for("begun hang 0")
        wait_until(lambda: bool(folder.ok("pending", "list", "billing", "--json").json["pending"]))
        (listed,) = folder.ok("pending", "list", "billing", "--json").json["pending"]
        assert (listed["handler"], listed["key"], listed["waiting"]) == ("charge", "hang", "in hand")
        found = folder.ok("pending", "list", "billing", "--id", listed["id"], "--json").json["pending"]
        assert [record["id"] for record in found] == [listed["id"]]
        os.kill(worker.children()[0], signal.SIGKILL)
        worker.wait_for("a moment before, charge is at a batch of 1 of orders, partition 1")


IGNORING = """
import asyncio
from pspf import BaseEvent, Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders", ordering="key", name="ignore", timeout_ms=100)
async def ignore({parameter}):
    print("begun")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("ignored")
"""


@pytest.mark.parametrize("parameter", ["order: BaseEvent", "orders: list[BaseEvent]"])
def test_a_handler_that_ignores_its_cancellation_is_named_and_its_process_replaced(
    folder: Folder, parameter: str
) -> None:
    folder.environment |= FAST | {"PSPF_LOOP_STALL_MS": "1500"}
    (folder.path / "ignoring.py").write_text(IGNORING.format(parameter=parameter))
    folder.emit(1)
    with folder.worker("ignoring:stream", "--drain-timeout", "100ms") as worker:
        worker.wait_for("ignore goes on although its time is up and it was cancelled")
        worker.wait_for("ignore goes on although it was cancelled, with a batch of 1 of orders, partition 0 from 1 on")
        assert not worker.says("begun", times=2)  # no second run beside the first
        worker.wait_for("another one starts")
        worker.wait_for("begun", times=2)
        worker.signal(signal.SIGTERM)
        worker.end()

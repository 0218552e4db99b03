"""An app on a broker that can't do all: what `pspf worker` refuses before anything runs, and what it runs."""

import signal

import pytest

from tests.process.commands import Folder

HEAD = """
from contextlib import asynccontextmanager

from pspf import BaseEvent, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from tests.support.assigning import AssigningBroker


@asynccontextmanager
async def filled(stream):
    await stream.emit_many([{"n": n, "key": "k"} for n in range(3)], "orders")
    yield


stream = Stream(StreamingBackend(AssigningBroker(), "orders", "billing"), lifespan=filled)
"""
ORDERED = """
@stream.subscribe("orders", ordering="key", name="count")
async def count(event: BaseEvent):
    print("counted", event.n)
"""
SHARED = """
@stream.subscribe("orders", name="charge")
async def charge(event: BaseEvent):
    print("charged", event.n)
"""


@pytest.mark.parametrize("how", [("--check",), (), ("--in-process",), ("--in-process", "--burst")], ids=" ".join)
def test_a_handler_that_the_broker_can_not_run_ends_the_worker_before_it_begins(
    folder: Folder, how: tuple[str, ...]
) -> None:
    (folder.path / "app.py").write_text(HEAD + ORDERED + SHARED)
    refused = folder.pspf("worker", *how)
    assert refused.code == 2
    assert refused.out == ""
    assert "error: assigning lacks what this app needs:" in refused.err
    assert 'shared mode, for charge on orders: pass ordering="key"' in refused.err
    assert "count" not in refused.err


def test_the_same_app_runs_on_another_broker(folder: Folder) -> None:
    (folder.path / "app.py").write_text(HEAD + ORDERED + SHARED)
    done = folder.run("worker", "--in-process", "--burst", "--backend", "memory://")
    assert sorted(done.out.splitlines()) == [f"{did} {n}" for did in ("charged", "counted") for n in range(3)]


def test_a_worker_runs_what_the_broker_can(folder: Folder) -> None:
    (folder.path / "app.py").write_text(HEAD + ORDERED)
    done = folder.run("worker", "--in-process", "--burst")
    assert done.out.splitlines() == [f"counted {n}" for n in range(3)]
    assert "handled 3, failed 0, dead 0, lag 0" in done.err


def test_a_broker_of_one_process_is_refused_with_several(folder: Folder) -> None:
    (folder.path / "app.py").write_text(HEAD + ORDERED)
    refused = folder.pspf("worker")
    assert refused.code == 2
    assert "lives inside one process" in refused.err


def test_new_code_is_asked_for_what_it_needs_of_the_broker_that_the_worker_runs_on(folder: Folder) -> None:
    (folder.path / "app.py").write_text(HEAD + ORDERED + SHARED)
    with folder.worker("--backend", "sqlite:///broker.db") as worker:
        worker.wait_for("charged 2")
        worker.signal(signal.SIGHUP)
        worker.wait_for("SIGHUP: the new code is loaded")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert not worker.says("lacks")

"""Emit, work, look: the three commands that everything else is about."""

import os
import subprocess
import sys

from tests.process.commands import QUAKES, Folder
from tests.support import forks


def test_what_was_emitted_is_handled_and_counted(folder: Folder) -> None:
    assert folder.ok("emit", "orders", '{"n": 5}', "-k", "ann").out == "1\n"
    folder.ok("emit", "orders", '{"n": 7, "key": "ann"}')
    ended = folder.run("worker", "app:stream", "--burst", from_nothing=True)  # as users start it
    assert "handled 2, failed 0, dead 0, lag 0" in ended.err
    assert folder.ok("state", "get", "app.total", "ann").json == 12
    group = next(g for g in folder.ok("groups", "inspect", "--json").json["groups"] if g["group"] == "billing")
    assert group == {
        "group": "billing",
        "topic": "orders",
        "handler": "app.total",
        "ordering": "key",
        "partitions": [
            {
                "partition": 0,
                "committed": "2",
                "end": "2",
                "lag": 0,
                "pending": 0,
                "oldest_pending_ms": None,
                "owner": None,
                "watermark_ms": None,
            }
        ],
        "lag": 0,
        "pending": 0,
        "consumers": [],
    }


def test_a_burst_waits_for_what_handlers_emit_to_each_other(folder: Folder) -> None:
    folder.emit(3, n=100)
    ended = folder.run("worker", "--burst")
    assert ended.out.count("audit 100") == 3
    assert folder.lag() == {"billing": 0, "audit": 0}


def test_a_worker_names_broker_topics_groups_and_processes_at_its_start(folder: Folder) -> None:
    said = folder.run("worker", "--burst", "-w", "orders=2").err
    assert "broker: sqlite:///" in said
    assert "topics: orders, large" in said
    assert "groups: billing, audit" in said
    assert "processes: 3 (orders/billing x 2, large/audit x 1)" in said
    assert "waiting for orders: no such topic yet" in said


def test_emitting_the_same_events_again_changes_nothing(folder: Folder) -> None:
    first = folder.ok("emit", "quakes", f"@{QUAKES}", "--json").json
    assert first == {"emitted": 1707, "duplicates": 0, "failed": 0}
    again = folder.ok("emit", "quakes", f"@{QUAKES}", "--json").json
    assert again == {"emitted": 0, "duplicates": 1707, "failed": 0}
    topics = folder.ok("topics", "list", "--json").json["topics"]
    assert [(topic["topic"], topic["partitions"], topic["records"]) for topic in topics] == [("quakes", 1, 1707)]


def test_all_handlers_may_run_in_one_process(folder: Folder) -> None:
    folder.emit(2, n=100)
    ended = folder.run("worker", "--burst", "--in-process")
    assert "processes: this one" in ended.err
    assert "handled 4, failed 0, dead 0, lag 0" in ended.err


def test_each_event_loop_runs_a_worker(folder: Folder) -> None:
    for loop in ("asyncio", "uvloop"):
        folder.emit()
        assert "lag 0" in folder.run("worker", "--burst", "--in-process", "--loop", loop).err


def test_handlers_of_another_topic_can_be_left_out(folder: Folder) -> None:
    folder.emit(2, n=100)
    folder.run("worker", "--burst", "--only", "orders")
    assert folder.lag() == {"billing": 0}


def test_a_burst_that_takes_too_long_ends_with_code_9(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=60)
    ended = folder.pspf("worker", "--burst", "--burst-timeout", "500ms", "--drain-timeout", "100ms")
    assert ended.code == 9
    assert "handled 0" in ended.err


def test_a_command_in_another_folder_of_the_project_meets_the_same_broker(folder: Folder) -> None:
    (folder.path / "inner").mkdir()
    folder.emit()
    told = forks.run("tail", "orders", "--format", "%i", folder=folder.path / "inner", environment=folder.environment)
    assert told.stdout == b"1\n"


def test_a_reader_that_leaves_early_is_no_error(folder: Folder) -> None:
    folder.ok("emit", "quakes", f"@{QUAKES}")
    read_end, write_end = os.pipe()
    tail = subprocess.Popen(
        [sys.executable, "-m", "pspf", "tail", "quakes"],
        cwd=folder.path,
        env=folder.environment,
        stdout=write_end,
        stderr=subprocess.PIPE,
    )
    os.close(write_end)
    assert os.read(read_end, 10)
    os.close(read_end)
    _, said = tail.communicate(timeout=30)
    assert tail.returncode == 0
    assert said.startswith(b"broker: sqlite:///")
    assert said.count(b"\n") == 1

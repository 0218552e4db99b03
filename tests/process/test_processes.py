"""Several processes: how many there are, and what happens when one of them fails."""

import shutil
import signal

import pytest

from tests.process.commands import Folder, wait_until


def test_each_topic_group_has_as_many_processes_as_asked_for(folder: Folder) -> None:
    folder.ok("topics", "create", "orders", "--partitions", "4")
    with folder.worker("-w", "orders/billing=3") as worker:
        worker.wait_for("processes: 4 (orders/billing x 3, large/audit x 1)")
        folder.emit_lines("\n".join(f'{{"n": {n}, "key": "key-{n}"}}' for n in range(8)))
        worker.wait_for("start", 8)
        wait_until(lambda: len(worker.children()) == 4)  # one alone may have been fast enough
    assert not worker.says("Traceback")


def test_several_processes_lose_nothing_and_sum_up_once(folder: Folder) -> None:
    folder.ok("topics", "create", "orders", "--partitions", "4")
    folder.emit_lines("\n".join(f'{{"n": 1, "key": "k{n % 20}"}}' for n in range(400)))
    ended = folder.run("worker", "--burst", "-w", "3")
    assert ended.err.count("handled ") == 1
    assert "handled 400, failed 0, dead 0, lag 0" in ended.err
    assert sum(entry["value"] for entry in folder.ok("state", "list", "app.total", "--json").json["state"]) == 400


def test_a_process_that_dies_in_a_burst_is_named_and_the_others_are_drained(folder: Folder) -> None:
    folder.emit(do="exit")
    ended = folder.pspf("worker", "--burst")
    assert ended.code == 1
    assert "worker process orders/billing, pid " in ended.err
    assert "ended with exit code 7" in ended.err
    assert ended.err.count("handled ") == 1


def test_what_a_process_prints_shows_at_once(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=60)
    with folder.worker(from_nothing=True) as worker:  # how output is buffered is decided at an interpreter's start
        worker.wait_for("start 1")


@pytest.mark.parametrize("where", [(), ("--in-process",)])
def test_the_interpreter_of_a_worker_is_set_for_batches(folder: Folder, where: tuple[str, ...]) -> None:
    (folder.path / "told.py").write_text(
        "import gc, sys\n"
        "from pspf import Stream\n"
        "stream = Stream(topic='orders', group='told')\n"
        "@stream.subscribe('orders')\n"
        "async def tell(event):\n"
        "    print('set', gc.get_threshold()[0], sys.getswitchinterval())\n"
    )
    folder.emit(n=1)
    ended = folder.run("worker", "told:stream", "--burst", *where)
    assert "set 10000 0.0005" in ended.out


def test_a_pspf_backend_variable_counts_unless_the_flag_is_given(folder: Folder) -> None:
    folder.ok("emit", "orders", '{"n": 3}', "-k", "a", "--backend", "sqlite:///flag.db")
    folder.run("emit", "orders", '{"n": 4}', "-k", "a", PSPF_BACKEND="sqlite:///variable.db")
    flag = folder.run("worker", "--burst", "--backend", "sqlite:///flag.db", PSPF_BACKEND="sqlite:///variable.db")
    variable = folder.run("worker", "--burst", PSPF_BACKEND="sqlite:///variable.db")
    assert "start 3" in flag.out
    assert "start 4" in variable.out


def test_an_error_of_a_process_is_the_workers_own(folder: Folder) -> None:
    (folder.path / "broken.py").write_text(
        "import threading, time\n"
        "from pathlib import Path\n"
        "if Path('imported').exists():\n"
        "    raise RuntimeError('only in a child')\n"
        "Path('imported').touch()\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "from app import stream\n"
    )
    ended = folder.pspf("worker", "broken:stream")
    assert ended.code == 3
    assert "only in a child" in ended.err
    assert "Traceback" not in ended.err


def test_a_worker_waits_for_a_broker_that_is_down_and_says_so_once(folder: Folder) -> None:
    (folder.path / "data").write_text("in the way of the folder")
    for where in ((), ("--in-process",)):
        with folder.worker("--burst", "--backend", "sqlite:///data/broker.db", *where) as worker:
            worker.wait_for("waiting for the broker")
            (folder.path / "data").unlink()
            assert worker.end() == 0
            assert worker.log.read_text().count("waiting for the broker") == 1
            assert worker.says("lag 0")
        shutil.rmtree(folder.path / "data")
        (folder.path / "data").write_text("again in the way")


def test_a_signal_ends_a_worker_that_waits_for_its_broker(folder: Folder) -> None:
    (folder.path / "data").write_text("in the way of the folder")
    for where in ((), ("--in-process",)):
        with folder.worker("--backend", "sqlite:///data/broker.db", *where) as worker:
            worker.wait_for("waiting for the broker")
            worker.signal(signal.SIGTERM)
            assert worker.end() == 0


def test_a_process_that_is_killed_at_a_crash_point_costs_nothing(folder: Folder) -> None:
    folder.emit(50)
    killed = folder.pspf("worker", "--burst", PSPF_FAULT="commit.sent:1:kill")
    assert killed.code == 1
    assert "was ended by SIGKILL" in killed.err
    folder.run("worker", "--burst")
    assert folder.ok("state", "get", "total", "k").json == sum(range(1, 51))


def test_a_crash_point_that_is_none_ends_with_code_2(folder: Folder) -> None:
    for where in ((), ("--in-process",)):
        ended = folder.pspf("worker", "--burst", *where, PSPF_FAULT="nowhere:1:kill")
        assert ended.code == 2
        assert "Traceback" not in ended.err

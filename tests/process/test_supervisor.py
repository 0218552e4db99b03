"""What becomes of processes that crash: they start again, apart from one another, and are not forgotten."""

import os
import re
import resource
import signal
import time
from collections import Counter

import pytest

from tests.process.commands import Folder, Running, name_of, wait_until

FAST = {"PSPF_RESTART_INITIAL_MS": "100", "PSPF_RESTART_MAX_MS": "400", "PSPF_HEALTHY_MS": "2000"}

CRASHING = """
import os
from pspf import Stream
{before}
stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders", group="good", name="good")
async def good(order: dict):
    print("good", order["n"])


@stream.subscribe("orders", group="bad", name="bad")
async def bad(order: dict):
    print("bad", os.getpid())
    {crash}
"""


def pid_of(worker: Running, label: str) -> int:
    """Return the pid of the process of a topic group, once it is seen: the system's list is no snapshot."""
    name = f"pspf {label}"[:15]
    names: dict[str, int] = {}

    def is_there() -> bool:
        names.update((name_of(pid), pid) for pid in worker.children())
        return name in names

    wait_until(is_there)
    return names[name]


def write_app(folder: Folder, crash: str, before: str = "") -> None:
    (folder.path / "crashing.py").write_text(CRASHING.format(crash=crash, before=before))


def test_a_process_that_is_killed_is_named_with_its_signal_and_another_one_goes_on(folder: Folder) -> None:
    folder.environment |= FAST
    folder.emit(go="go")
    with folder.worker() as worker:
        worker.wait_for("start 1")
        os.kill(pid_of(worker, "orders/billing"), signal.SIGKILL)
        worker.wait_for("was ended by SIGKILL; another one starts in 0.1 s")
        assert re.search(r"20\d\d-\d\d-\d\dT[0-9:]{8}Z worker process orders/billing", worker.log.read_text())
        worker.wait_for("start 1", times=2)
        (folder.path / "go").touch()
        wait_until(lambda: folder.lag().get("billing") == 0)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert folder.ok("state", "get", "total", "k").json == 1


MORE_CRASHING = """

@stream.subscribe("orders", group="{group}", name="{group}")
async def {group}(order: dict):
    print("{group}", os.getpid())
    {crash}
"""
CRASHES = {
    "bad": ("os._exit(1)", "ended with exit code 1"),
    "worse": ("os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
    "worst": ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
}


def test_a_crash_loop_of_one_topic_group_does_not_touch_the_others(folder: Folder) -> None:
    folder.environment |= FAST
    write_app(folder, CRASHES["bad"][0])
    with (folder.path / "crashing.py").open("a") as app:
        for group in ("worse", "worst"):
            app.write(MORE_CRASHING.format(group=group, crash=CRASHES[group][0]))
    folder.emit(1)
    with folder.worker("crashing:stream") as worker:
        worker.wait_for("good 1")
        good = pid_of(worker, "orders/good")
        for group, (_, said) in CRASHES.items():
            wait_until(lambda g=group, s=said: crashes(worker, g, s) >= 2)  # type: ignore[misc]
        folder.emit(3)
        worker.wait_for("good 3")
        assert pid_of(worker, "orders/good") == good
        # The record that ends its process is found, and given up; then the group goes on.
        wait_until(lambda: {folder.lag().get(group) for group in CRASHES} == {0}, within_s=60)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    letters = folder.ok("dlq", "list", "--json").json["dead_letters"]
    assert Counter(letter["group"] for letter in letters) == dict.fromkeys(CRASHES, 4)
    assert {letter["error_type"] for letter in letters} == {"HandlerCrashed"}


def crashes(worker: Running, group: str, said: str) -> int:
    """Return how often a process of a group was said to have ended in a way, and another one to start."""
    return len(re.findall(rf"orders/{group}, .*{re.escape(said)}.*; another one starts", worker.log.read_text()))


def test_with_nothing_healthy_left_the_worker_ends_with_code_1(folder: Folder) -> None:
    folder.environment |= FAST
    (folder.path / "hopeless.py").write_text(
        "import contextlib, os\n"
        "from pspf import Stream\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan(stream):\n"
        "    os._exit(3)\n"
        "    yield\n"
        "stream = Stream(topic='orders', group='billing', lifespan=lifespan)\n"
        "@stream.subscribe('orders')\n"
        "async def handle(order: dict): pass\n"
    )
    begun = time.monotonic()
    ended = folder.pspf("worker", "hopeless:stream")
    assert ended.code == 1
    assert ended.err.count("ended with exit code 3") == 5
    assert "(crash 5 in a row)" in ended.err
    assert "no process of this worker gets anything done: giving up" in ended.err
    assert time.monotonic() - begun < 20


def test_a_worker_is_as_patient_as_it_was_told_at_first_and_forgets_crashes_in_time(folder: Folder) -> None:
    folder.environment |= {**FAST, "PSPF_HEALTHY_MS": "500"}
    with folder.worker() as worker:
        for times in (1, 2):
            wait_until(lambda: len(worker.children()) == 2)
            time.sleep(1)
            os.kill(pid_of(worker, "orders/billing"), signal.SIGKILL)
            worker.wait_for("another one starts in 0.1 s", times=times)
        assert not worker.says("in a row")


def test_a_worker_whose_fork_server_is_killed_starts_processes_in_another_way(folder: Folder) -> None:
    folder.environment |= FAST
    folder.emit(do="sleep", seconds=0.1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        workers = worker.children()
        for pid in worker.family():
            if pid not in workers:
                os.kill(pid, signal.SIGKILL)
        os.kill(pid_of(worker, "orders/billing"), signal.SIGKILL)
        worker.wait_for("new processes import the app by themselves")
        folder.emit_lines('{"n": 2, "key": "k"}')
        worker.wait_for("start 2")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


@pytest.mark.parametrize(
    "before",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import socket\nkeep = socket.socketpair()",
    ],
    ids=["threads", "sockets"],
)
def test_an_app_that_can_not_be_forked_is_imported_by_each_process(folder: Folder, before: str) -> None:
    write_app(folder, "pass", before + "\nprint('imported by', os.getpid())")
    folder.emit(1)
    with folder.worker("crashing:stream") as worker:
        worker.wait_for("good 1")
        worker.wait_for("bad ")
        worker.wait_for("imported by", times=3)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_an_import_that_does_not_end_is_told_with_its_place_and_can_be_stopped(folder: Folder) -> None:
    write_app(
        folder,
        "pass",
        "import socket, time\nkeep = socket.socketpair()\n"  # so that each process imports it anew
        "if os.path.exists('imported'):\n    time.sleep(600)\nopen('imported', 'w').close()",
    )
    folder.environment |= FAST | {"PSPF_LOOP_STALL_MS": "1000"}
    with folder.worker("crashing:stream") as worker:
        worker.wait_for("it has been importing the app for")
        worker.wait_for("crashing.py", times=2)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert not worker.says("another one starts")


def test_a_worker_under_a_manager_that_signals_every_process_still_drains(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        for pid in (worker.process.pid, *worker.family()):
            os.kill(pid, signal.SIGTERM)
        assert worker.end() == 0
        assert worker.says("handled 1, failed 0, dead 0, lag")


def test_a_process_that_somebody_stops_is_started_again(folder: Folder) -> None:
    folder.environment |= FAST
    with folder.worker() as worker:
        wait_until(lambda: len(worker.children()) == 2)
        time.sleep(1)
        os.kill(pid_of(worker, "orders/billing"), signal.SIGTERM)
        worker.wait_for("ended with exit code 0; another one starts")
        wait_until(lambda: len(worker.children()) == 2)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_an_error_in_the_code_that_shows_later_does_not_stop_a_worker_that_works(folder: Folder) -> None:
    """At the start it would: then nothing of it has ever worked."""
    folder.environment |= FAST
    (folder.path / "two.py").write_text(
        "import contextlib, os\n"
        "from pathlib import Path\n"
        "from pspf import Stream\n"
        "from pspf.errors import ConfigurationError\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan(stream):\n"
        "    if Path('broken').exists():\n"
        "        raise ConfigurationError('the settings are gone')\n"
        "    yield\n"
        "stream = Stream(topic='orders', group='billing', lifespan=lifespan)\n"
        "@stream.subscribe('orders', group='good', name='good')\n"
        "async def good(order: dict):\n"
        "    print('good', order['n'])\n"
        "@stream.subscribe('orders', group='bad', name='bad')\n"
        "async def bad(order: dict):\n"
        "    print('bad', order['n'])\n"
    )
    folder.emit(1)
    with folder.worker("two:stream") as worker:
        worker.wait_for("good 1")
        worker.wait_for("bad 1")
        (folder.path / "broken").touch()
        os.kill(pid_of(worker, "orders/bad"), signal.SIGKILL)
        worker.wait_for("ended: the settings are gone; another one starts")
        folder.emit(1, n=2)
        worker.wait_for("good 2")
        (folder.path / "broken").unlink()
        worker.wait_for("bad 2")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_a_process_that_a_stop_meets_without_its_handler_of_signals_is_no_failure(folder: Folder) -> None:
    (folder.path / "bare.py").write_text(
        "import signal\n"
        "from pspf import Stream\n"
        "stream = Stream(topic='orders', group='billing')\n"
        "@stream.subscribe('orders')\n"
        "async def handle(order: dict):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "    print('without it')\n"
    )
    folder.emit(1)
    with folder.worker("bare:stream") as worker:
        worker.wait_for("without it")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_a_process_that_waits_to_start_again_is_not_started_after_a_signal(folder: Folder) -> None:
    folder.environment |= FAST
    write_app(folder, "os._exit(7)", before="import time")
    (folder.path / "crashing.py").write_text(
        (folder.path / "crashing.py").read_text().replace('print("good", order["n"])', 'print("good"); time.sleep(1)')
    )
    folder.emit(1)
    with folder.worker("crashing:stream") as worker:
        worker.wait_for("good")
        worker.wait_for("another one starts in")
        worker.signal(signal.SIGTERM)
        worker.wait_for("stopping:")
        started = worker.log.read_text().count("bad ")
        assert worker.end(within_s=10) == 0
        assert worker.log.read_text().count("bad ") == started


def test_a_worker_without_a_descriptor_starts_its_processes_once_there_is_one(folder: Folder) -> None:
    folder.environment |= FAST
    folder.emit(1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        wait_until(lambda: folder.lag().get("billing") == 0)
        limits = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (1, limits[1]))
        os.kill(pid_of(worker, "orders/billing"), signal.SIGKILL)
        worker.wait_for("no process can be started, next try in")
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, limits)
        folder.emit(2)
        worker.wait_for("start 2")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0

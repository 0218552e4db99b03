"""`pspf workers` and `pspf health`: who runs, and what they are told, through the broker."""

import os
import signal
import time
from typing import Any

import pytest

from tests.process.commands import Folder, Running, wait_until
from tests.process.test_supervisor import FAST, pid_of

SIGTERM = signal.SIGTERM


def listed(folder: Folder) -> list[dict[str, Any]]:
    """Return what `workers list --json` shows; nothing while a worker has not made the broker yet."""
    seen = folder.look("workers", "list", "--json")
    assert seen.code in (0, 6), seen
    found: list[dict[str, Any]] = [] if seen.code else seen.json["workers"]
    return found


def running(folder: Folder) -> dict[str, dict[str, Any]]:
    """Return the processes that run, by place."""
    return {each["place"]: each for each in listed(folder) if each["state"] == "running"}


def wait_for_both(folder: Folder) -> dict[str, dict[str, Any]]:
    wait_until(lambda: len(running(folder)) == 2)
    return running(folder)


def end(worker: Running) -> None:
    worker.signal(SIGTERM)
    assert worker.end() == 0


def test_workers_list_shows_each_process_with_what_it_did(folder: Folder) -> None:
    folder.emit(5)
    with folder.worker("--name", "blue") as worker:
        wait_for_both(folder)
        wait_until(lambda: sum(s["processed"] for each in listed(folder) for s in each["subscriptions"]) == 5)
        found = running(folder)["orders/billing#0"]
        assert found["worker"].startswith("blue-")
        assert found["pid"] in worker.children()
        assert found["supervisor"].startswith(f"blue-{worker.process.pid}-")
        (subscription,) = found["subscriptions"]
        assert (subscription["topic"], subscription["group"], subscription["handler"]) == (
            "orders",
            "billing",
            "app.total",
        )
        assert subscription["partitions"] == [0]
        assert (subscription["processed"], subscription["failed"]) == (5, 0)
        assert subscription["rate"] >= 0
        assert time.time() * 1000 - subscription["last_commit_ms"] < 60_000
        owner = folder.ok("groups", "inspect", "billing", "--json").json["groups"][0]["partitions"][0]["owner"]
        assert owner == found["worker"]
        end(worker)
    assert listed(folder) == []


def test_a_worker_that_is_idle_says_that_it_stands_by(folder: Folder) -> None:
    folder.emit()
    with folder.worker("-w", "orders/billing=2") as worker:
        wait_until(lambda: len(running(folder)) == 3)
        wait_until(
            lambda: (
                sorted(
                    s["partitions"] for each in listed(folder) for s in each["subscriptions"] if s["topic"] == "orders"
                )
                == [[], [0]]
            )
        )
        wait_until(lambda: folder.look("health", "ready").code == 0)
        assert "standing by" in folder.ok("workers", "list").out
        end(worker)


def test_ping_is_answered_and_a_worker_that_hangs_is_named(folder: Folder) -> None:
    with folder.worker() as worker:
        wait_for_both(folder)
        assert "running" in folder.ok("workers", "ping").out
        worker.signal(signal.SIGSTOP)
        asked = folder.look("workers", "ping", "--timeout", "1500ms")
        worker.signal(signal.SIGCONT)
        # The thread that shows it is stopped as well.
        assert asked.code == 9
        assert "no answer within" in asked.err
        end(worker)


def test_a_worker_is_stopped_from_anywhere(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=0.5)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        supervisor = wait_for_both(folder)["orders/billing#0"]["supervisor"]
        folder.ok("workers", "stop", supervisor)
        assert worker.end() == 0
        assert worker.says("handled 1, failed 0, dead 0, lag")
    assert folder.lag()["billing"] == 0


def test_one_process_is_stopped_alone_has_its_way_back_and_the_last_one_ends_the_worker(folder: Folder) -> None:
    with folder.worker() as worker:
        found = wait_for_both(folder)
        folder.ok("workers", "stop", found["large/audit#0"]["worker"])
        wait_until(lambda: [each["place"] for each in listed(folder)] == ["orders/billing#0"])
        wait_until(lambda: folder.look("health", "ready").code == 0)
        folder.ok("workers", "resume", found["orders/billing#0"]["supervisor"])
        wait_until(lambda: len(listed(folder)) == 2)
        folder.ok("workers", "stop", wait_for_both(folder)["large/audit#0"]["worker"])
        wait_until(lambda: [each["place"] for each in listed(folder)] == ["orders/billing#0"])
        folder.ok("workers", "stop", found["orders/billing#0"]["worker"])
        assert worker.end() == 0


def test_a_paused_process_does_nothing_until_it_is_resumed(folder: Folder) -> None:
    folder.emit(1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        name = wait_for_both(folder)["orders/billing#0"]["worker"]
        folder.ok("workers", "pause", name)
        wait_until(
            lambda: [each["state"] for each in listed(folder) if each["place"] == "orders/billing#0"] == ["paused"]
        )
        folder.emit_lines('{"n": 2, "key": "k"}')
        assert folder.look("health", "ready").code == 10
        time.sleep(1)
        assert not worker.says("start 2")
        paused = next(each for each in listed(folder) if each["place"] == "orders/billing#0")
        assert paused["why"] == "orders/billing is paused"
        folder.ok("workers", "resume", paused["worker"])
        worker.wait_for("start 2")
        wait_until(lambda: folder.look("health", "ready").code == 0)
        end(worker)


def test_stacks_show_where_threads_and_tasks_are_even_of_a_blocked_loop(folder: Folder) -> None:
    folder.emit(do="block", seconds=60)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        wait_for_both(folder)
        shown = folder.ok("workers", "stacks")
        assert "in total" in shown.out  # the handler that blocks, by its thread's stack
        assert "app.py" in shown.out
        assert "task " in shown.out  # of the other process
        worker.process.kill()


def test_a_worker_in_one_process_shows_itself_and_can_be_stopped(folder: Folder) -> None:
    folder.emit()
    with folder.worker("--in-process") as worker:
        wait_until(lambda: len(running(folder)) == 1)
        assert listed(folder)[0]["pid"] == worker.process.pid
        wait_until(lambda: folder.look("health", "ready").code == 0)
        assert "task " in folder.ok("workers", "stacks").out
        assert folder.look("workers", "pause", "--all").code == 1
        folder.ok("workers", "stop", "--all")
        assert worker.end() == 0


def test_a_crash_loop_is_visible_in_the_list_and_in_readiness(folder: Folder) -> None:
    folder.environment |= {**FAST, "PSPF_RESTART_INITIAL_MS": "3000", "PSPF_RESTART_MAX_MS": "3000"}
    with folder.worker() as worker:
        wait_for_both(folder)
        wait_until(lambda: folder.look("health", "ready").code == 0)
        os.kill(pid_of(worker, "orders/billing"), signal.SIGKILL)
        wait_until(lambda: any(each["state"] == "crashing" for each in listed(folder)))
        found = next(each for each in listed(folder) if each["state"] == "crashing")
        assert found["last_exit"] == "was ended by SIGKILL"
        assert (found["restarts"], found["crashes_in_a_row"]) == (1, 1)
        assert 0 < found["next_try_ms"] - time.time() * 1000 < 4_000
        ready = folder.look("health", "ready")
        assert ready.code == 10
        assert "orders/billing is crashing: was ended by SIGKILL" in ready.err
        assert folder.look("health", "live").code == 0
        wait_until(lambda: folder.look("health", "ready").code == 0)
        end(worker)


def test_health_of_nobody_is_bad(folder: Folder) -> None:
    folder.emit()
    assert folder.look("health", "live").code == 10
    assert folder.look("health", "ready").code == 10
    assert folder.look("workers", "ping").code == 0
    assert folder.look("workers", "stop", "nobody").code == 6
    assert folder.look("workers", "stop").code == 2


def test_a_worker_that_is_killed_is_gone_from_the_list_in_its_time(folder: Folder) -> None:
    with folder.worker() as worker:
        wait_for_both(folder)
        worker.signal(signal.SIGKILL)
        worker.end()
    wait_until(lambda: listed(folder) == [], within_s=15)


@pytest.mark.parametrize("name", ["prod-7", "a b/c"])
def test_ids_start_with_the_name_that_was_given(folder: Folder, name: str) -> None:
    folder.emit()
    with folder.worker("--name", name) as worker:
        found = wait_for_both(folder)
        plain = name.replace(" ", "_").replace("/", "_")
        assert all(each["worker"].startswith(f"{plain}-{each['pid']}-") for each in found.values())
        consumers = folder.ok("groups", "inspect", "billing", "--json").json["groups"][0]["consumers"]
        assert [each["consumer"] for each in consumers] == [found["orders/billing#0"]["worker"]]
        end(worker)


@pytest.mark.parametrize("where", [(), ("--in-process",)])
def test_stacks_show_where_each_await_stands(folder: Folder, where: tuple[str, ...]) -> None:
    folder.emit(do="sleep", seconds=60)
    with folder.worker("--drain-timeout", "100ms", *where) as worker:
        worker.wait_for("start 1")
        wait_until(lambda: bool(listed(folder)))
        shown = folder.ok("workers", "stacks").out
        assert "await asyncio.sleep(order.seconds)" in shown
        worker.signal(signal.SIGTERM)
        worker.end()


def test_health_is_bad_where_the_broker_can_not_be_asked(folder: Folder) -> None:
    for check in ("live", "ready"):
        answer = folder.look("health", check, "--backend", "valkey://127.0.0.1:1")
        assert (answer.code, answer.out) == (10, ""), answer
        assert "nobody can tell" in answer.err

"""The app loaded anew, by SIGHUP or when a file is saved: nothing is lost, and bad code changes nothing."""

import signal
import time

from tests.process.commands import APP, Folder, is_running, name_of, wait_until

SIGTERM, SIGHUP = signal.SIGTERM, signal.SIGHUP

GENERATION = "\nprint('generation {}', flush=True)\n"


def save(folder: Folder, text: str) -> None:
    """Replace the app as an editor does; another size in the same second is what Python's cache takes note of."""
    new = folder.path / "app.py.new"
    new.write_text(text)
    new.replace(folder.path / "app.py")


def test_sighup_replaces_every_process_by_one_with_the_new_code(folder: Folder) -> None:
    folder.emit(3)
    with folder.worker() as worker:
        worker.wait_for("start 3")
        before = set(worker.children())
        save(folder, APP.replace('print("start"', 'print("beginning"'))
        worker.signal(SIGHUP)
        worker.wait_for("SIGHUP: the new code is loaded")
        wait_until(lambda: len(set(worker.children()) - before) == 2 and not set(worker.children()) & before)
        folder.emit_lines('{"n": 4, "key": "k"}')
        worker.wait_for("beginning 4")
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert worker.says("handled 4, failed 0, dead 0, lag 0")
    assert folder.ok("state", "get", "total", "k").json == 10


def test_sighup_finishes_what_is_in_hand(folder: Folder) -> None:
    folder.emit(do="sleep", seconds=1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        worker.signal(SIGHUP)
        wait_until(lambda: folder.lag().get("billing") == 0)
        assert worker.says("start 1", 1)
        assert not worker.says("start 1", 2)
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert worker.says("handled 1, failed 0, dead 0, lag 0")


def test_new_code_that_does_not_import_keeps_the_old(folder: Folder) -> None:
    folder.emit(1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        before = worker.children()
        for broken, said in (
            ("def (", "SyntaxError"),
            ("import nowhere", "No module named 'nowhere'"),
            ("x = 1", "no Stream"),
        ):
            save(folder, broken)
            worker.signal(SIGHUP)
            worker.wait_for("SIGHUP: not reloaded, the old code goes on")
            worker.wait_for(said)
        assert worker.children() == before
        folder.emit_lines('{"n": 2, "key": "k"}')
        worker.wait_for("start 2")
        worker.signal(SIGTERM)
        assert worker.end() == 0
        assert not worker.says("Traceback")


def test_new_code_may_have_other_topic_groups(folder: Folder) -> None:
    with folder.worker() as worker:
        wait_until(lambda: len(worker.children()) == 2)
        more = """

@stream.subscribe("orders", group="third", name="third")
async def third(order: Order):
    print("third", order.n)
"""
        save(folder, APP.replace('@stream.subscribe("large", group="audit", name="app.audit")', "") + more)
        worker.signal(SIGHUP)
        worker.wait_for("the new code is loaded")
        folder.emit(1)
        worker.wait_for("third 1")
        wait_until(lambda: sorted(map(name_of, worker.children())) == ["pspf orders/bil", "pspf orders/thi"])
        worker.signal(SIGTERM)
        assert worker.end() == 0


def test_an_app_that_can_not_be_forked_is_loaded_anew_too(folder: Folder) -> None:
    threaded = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    save(folder, threaded + APP)
    with folder.worker() as worker:
        wait_until(lambda: len(worker.children()) == 2)
        save(folder, threaded + APP.replace('print("start"', 'print("beginning"'))
        worker.signal(SIGHUP)
        worker.wait_for("the new code is loaded")
        folder.emit(1)
        worker.wait_for("beginning 1")
        worker.signal(SIGTERM)
        assert worker.end() == 0


def test_a_save_restarts_the_processes_within_a_second(folder: Folder) -> None:
    save(folder, APP + GENERATION.format(0))
    folder.emit(1)
    with folder.worker("--reload") as worker:
        worker.wait_for("start 1")
        time.sleep(1)  # the watcher has to have begun
        took = []
        for number in (1, 2, 3):
            before = set(worker.children())
            save(folder, APP.replace('print("start"', f'print("start-{number}"'))
            saved = time.monotonic()
            wait_until(lambda before=before: len(set(worker.children()) - before) == 2)  # type: ignore[misc]
            took.append(time.monotonic() - saved)
            folder.emit_lines(f'{{"n": {number}, "key": "k"}}')
            worker.wait_for(f"start-{number} {number}")
        print(f"a save and all processes are new: {', '.join(f'{s:.2f} s' for s in took)}")
        assert min(took) < 1
        assert worker.says("app.py saved: the new code is loaded", 3)
        worker.signal(SIGTERM)
        assert worker.end() == 0


def test_a_syntax_error_shows_once_and_waits_for_the_next_save(folder: Folder) -> None:
    with folder.worker("--reload") as worker:
        wait_until(lambda: len(worker.children()) == 2)
        time.sleep(1)
        save(folder, APP + "\ndef (\n")
        worker.wait_for("not reloaded, the old code goes on")
        time.sleep(1)
        assert worker.log.read_text().count("SyntaxError") == 1
        assert not worker.says("Traceback")
        save(folder, APP.replace('print("start"', 'print("beginning"'))
        worker.wait_for("the new code is loaded")
        folder.emit(1)
        worker.wait_for("beginning 1")
        worker.signal(SIGTERM)
        assert worker.end() == 0


def test_a_save_replaces_an_import_that_does_not_end_and_none_outlives_the_worker(folder: Folder) -> None:
    save(folder, APP)
    folder.emit(1)
    with folder.worker("--reload") as worker:
        worker.wait_for("start 1")
        time.sleep(1)  # the watcher has to have begun
        save(folder, f"{APP}\nopen('endless', 'w').close()\nwhile True:\n    pass\n")
        wait_until((folder.path / "endless").exists)
        save(folder, APP.replace('print("start"', 'print("mended"'))
        worker.wait_for("app.py saved: the new code is loaded")
        folder.emit_lines('{"n": 2, "key": "k"}')
        worker.wait_for("mended 2")
        (folder.path / "endless").unlink()
        save(folder, f"{APP}\nopen('endless', 'w').close()\nwhile True:\n    pass\n")
        wait_until((folder.path / "endless").exists)
        importing = worker.family()
        worker.process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in importing))


def test_reload_is_not_for_bursts_and_single_processes(folder: Folder) -> None:
    assert folder.look("worker", "--reload", "--burst").code == 2
    assert folder.look("worker", "--reload", "--in-process").code == 2


def test_a_handler_that_is_taken_out_and_put_back_runs_again(folder: Folder) -> None:
    with folder.worker() as worker:
        wait_until(lambda: len(worker.children()) == 2)
        save(folder, APP.replace('@stream.subscribe("large", group="audit", name="app.audit")', ""))
        worker.signal(SIGHUP)
        wait_until(lambda: list(map(name_of, worker.children())) == ["pspf orders/bil"])
        save(folder, APP)
        worker.signal(SIGHUP)
        worker.wait_for("the new code is loaded", times=2)
        folder.ok("emit", "large", '{"n": 7}')
        worker.wait_for("audit 7")
        worker.signal(SIGTERM)
        assert worker.end() == 0


def test_a_handler_that_is_put_back_while_its_process_still_ends_runs_again(folder: Folder) -> None:
    slow = APP.replace('print("audit", order.n)', 'print("audit", order.n); await asyncio.sleep(order.seconds)')
    save(folder, slow)
    folder.ok("emit", "large", '{"n": 7, "seconds": 2}')
    with folder.worker() as worker:
        worker.wait_for("audit 7")
        save(folder, slow.replace('@stream.subscribe("large", group="audit", name="app.audit")', ""))
        worker.signal(SIGHUP)
        worker.wait_for("the new code is loaded")
        save(folder, slow)
        worker.signal(SIGHUP)
        worker.wait_for("the new code is loaded", times=2)
        folder.ok("emit", "large", '{"n": 8}')
        worker.wait_for("audit 8")
        assert not worker.says("audit 7", times=2)
        worker.signal(SIGTERM)
        assert worker.end() == 0


def test_an_app_without_handlers_is_not_taken_over(folder: Folder) -> None:
    folder.emit(1)
    with folder.worker() as worker:
        worker.wait_for("start 1")
        save(folder, "from pspf import Stream\nstream = Stream(topic='orders', group='billing')\n")
        worker.signal(SIGHUP)
        worker.wait_for("SIGHUP: not reloaded, the old code goes on")
        assert worker.says("has no handlers any more")
        folder.emit_lines('{"n": 2, "key": "k"}')
        worker.wait_for("start 2")
        worker.signal(SIGTERM)
        assert worker.end() == 0

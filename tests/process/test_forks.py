"""What `tests.support.forks` starts is what `python -m` would be, and nothing of one reaches the next."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.commands import ROOT, Folder, wait_until
from tests.support import forks

TELL = """
import json, os, re, signal, sys, threading, warnings
told = json.dumps({
    "argv": sys.argv, "folder": os.getcwd(), "environment": sorted(os.environ.items()), "path": sys.path,
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1], "threads": threading.active_count(),
    "signals": {number: str(signal.getsignal(number)) for number in signal.valid_signals()}, "main": __name__,
    "streams": [(s.encoding, s.errors, s.line_buffering) for s in (sys.stdin, sys.stdout, sys.stderr)],
    "warnings": (sys.warnoptions, warnings.filters[0][0]), "stdin": sys.stdin.read(),
    "tests": [name for name in sys.modules if name.startswith("tests")],
}, indent=1)
print(re.sub("at 0x[0-9a-f]+", "", told), end="")
sys.stderr.write("told")
sys.exit(7)
"""


def test_a_fork_is_what_a_start_from_nothing_is(folder: Folder) -> None:
    (folder.path / "tell.py").write_text(TELL)
    environment = {**folder.environment, "ONLY_HERE": "yes"}
    fork = forks.run("a", "-b", folder=folder.path, environment=environment, stdin=b"\xc3\xa9", module="tell")
    other = subprocess.run(
        [sys.executable, "-m", "tell", "a", "-b"],
        cwd=folder.path,
        env=environment,
        input=b"\xc3\xa9",
        capture_output=True,
        check=False,
    )
    assert json.loads(fork.stdout) == json.loads(other.stdout)
    assert (fork.stderr, fork.returncode) == (other.stderr, other.returncode)


def test_nothing_of_a_fork_reaches_the_next(folder: Folder) -> None:
    """The settings that are read, the app that is imported, and its folder are its own."""
    for lease in ("5000", "6000"):
        assert folder.run("config", "show", "--json", PSPF_LEASE_MS=lease).json["PSPF_LEASE_MS"] == int(lease)
    for name in ("first", "second"):
        here = folder.path / name
        here.mkdir()
        (here / "same.py").write_text(f"from pspf import Stream\n{name} = Stream(topic='t', group='g')\n")
        shown = forks.run("show", "same", "--json", folder=here, environment=folder.environment)
        assert f'"same:{name}"'.encode() in shown.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_that_ends_a_fork_is_its_exit_code(folder: Folder, tmp_path: Path, number: signal.Signals) -> None:
    (folder.path / "sleep.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    with (tmp_path / "log").open("wb") as output:
        fork = forks.start(folder=folder.path, environment=folder.environment, output=output, module="sleep")
    wait_until(lambda: bool((tmp_path / "log").read_text()))
    assert fork.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0.01)
    fork.send_signal(number)
    assert fork.wait(30) == fork.returncode == -number


def test_what_only_a_start_can_do_is_refused(folder: Folder) -> None:
    with pytest.raises(ValueError, match="PYTHONHASHSEED"):
        forks.run("version", folder=folder.path, environment={**folder.environment, "PYTHONHASHSEED": "7"})


def test_an_error_that_nobody_catches_ends_a_fork_as_it_ends_others(folder: Folder) -> None:
    (folder.path / "bad.py").write_text("raise ZeroDivisionError('of its own')\n")
    ended = forks.run(folder=ROOT, environment={"PYTHONPATH": str(folder.path)}, module="bad")
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.endswith(b"ZeroDivisionError: of its own\n")

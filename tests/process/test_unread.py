"""A log that nobody reads: what is written is dropped in the end, and nothing waits for ever."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from pspf.runtime.worker.stdio import _Lasting
from tests.process.commands import Folder, wait_until

SIZE = 4096


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe that has no room."""
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, SIZE)
    os.write(write_fd, b"." * SIZE)
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)
        os.close(write_fd)


@contextmanager
def start(folder: Folder, output: int, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a worker that writes to a descriptor."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pspf", "worker", *arguments],
        cwd=folder.path,
        env=folder.environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("where", [(), ("--in-process",)])
def test_a_worker_whose_log_nobody_reads_obeys_a_signal(folder: Folder, where: tuple[str, ...]) -> None:
    folder.ok("topics", "create", "orders", "--partitions", "1")
    with full_pipe() as (_, write_fd), start(folder, write_fd, *where) as worker:
        wait_until(lambda: '"worker"' in folder.look("workers", "list", "--json").out, within_s=30)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_a_third_signal_ends_a_worker_whose_log_nobody_reads_at_once(folder: Folder) -> None:
    (folder.path / "blocking.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from pspf import BaseEvent, Stream\n"
        "stream = Stream(topic='orders', group='billing')\n"
        "@stream.subscribe('orders')\n"
        "async def block(order: BaseEvent):\n"
        "    Path('begun').touch()\n"
        "    time.sleep(60)\n"
    )
    folder.emit(1)
    with full_pipe() as (_, write_fd), start(folder, write_fd, "blocking:stream") as worker:
        wait_until((folder.path / "begun").exists, within_s=30)
        for _ in range(3):
            worker.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert worker.wait(5) == 143


def test_a_reader_that_comes_back_learns_how_much_it_has_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Lasting, "patience_s", 0.05)
    with full_pipe() as (read_fd, write_fd):
        output = _Lasting(write_fd, tells=False)
        for _ in range(3):
            assert output.write(b"x" * 10_000) == 10_000
        assert os.read(read_fd, SIZE) == b"." * SIZE
        assert output.write(b"back") == 4
        said = os.read(read_fd, SIZE)
    assert said == b"\n... 30000 bytes were dropped here: nobody read them\nback"


def test_a_slow_reader_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Lasting, "patience_s", 5)
    with full_pipe() as (read_fd, write_fd), ThreadPoolExecutor() as threads:
        written = threads.submit(_Lasting(write_fd, tells=False).write, b"x" * 20_000)
        said = b""
        while len(said) < SIZE + 20_000:
            said += os.read(read_fd, 1_000)
        assert written.result() == 20_000
    assert said == b"." * SIZE + b"x" * 20_000

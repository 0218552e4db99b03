"""Workers of one app on one broker, which end when all is done."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.runs import ROOT, SECONDS, Place
from tests.process.commands import state_of, wait_until
from tests.support import forks
from tests.support.forks import Fork


class Forks:
    """Workers of one app on one broker; those that are left at the end of the `with` block are killed."""

    def __init__(self, folder: Path, place: Place, app: str, environment: Mapping[str, str] | None = None) -> None:
        self.place = place
        self._app = app
        self._log = folder / "workers.log"
        self._workers: list[Fork] = []
        self._environment = {
            "PYTHONPATH": str(ROOT),
            "PSPF_BACKEND": place.url,
            "PSPF_LEASE_MS": "1500",
            "PSPF_RENEW_MS": "300",
            "PSPF_LOG_LEVEL": "WARNING",
            "PSPF_WORKER_ADMIN": "off",
            **(environment or {}),
        }

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()

    def start(self, fault: str = "") -> Fork:
        """Start a worker that ends when all is done; `fault` is armed in it."""
        command = ("worker", self._app, "--in-process", "--burst", "--verbose")
        environment = {**os.environ, **self._environment, "PSPF_FAULT": fault}
        with self._log.open("ab") as output:
            worker = forks.start(*command, folder=ROOT, environment=environment, output=output)
        self._workers.append(worker)
        return worker

    def wait(self, worker: Fork) -> int:
        """Wait for a worker's end; return its exit code, negative where a signal ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return worker.wait(SECONDS)
        raise AssertionError(f"it did not end\n{self.tail_of_log()}")

    def finish(self) -> None:
        """Let an unharmed worker do what is left."""
        code = self.wait(self.start())
        assert code == 0, f"the unharmed worker ended with {code}\n{self.tail_of_log()}"

    @contextlib.contextmanager
    def frozen(self, worker: Fork) -> Iterator[None]:
        """Wait until a worker has stopped itself; let it go on at the end of the block."""
        wait_until(lambda: state_of(worker.pid) == "T", within_s=SECONDS)
        yield
        worker.send_signal(signal.SIGCONT)

    def tail_of_log(self) -> str:
        """Return the end of what the workers said."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4_000:] if self._log.exists() else ""

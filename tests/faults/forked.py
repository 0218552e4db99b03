"""Workers as processes that are forked with PSPF loaded: each costs a tenth of one that starts from nothing."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from tests.faults.runs import SECONDS, Place
from tests.process.commands import wait_until

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "pspf.cli.main",
        "pspf.cli.project",
        "pspf.connectors.sqlite.broker",
        "pspf.connectors.valkey.broker",
        "pspf.runtime.alone",
        "pspf.runtime.launch",
        "pspf.tracing",
        "tests.faults",
    ]
)


def work(app: str, environment: Mapping[str, str], log: Path) -> None:
    """Be a worker until all is done; what it says goes to `log`."""
    with log.open("ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(environment)
    from pspf.cli.main import main

    main(["worker", app, "--in-process", "--burst", "--verbose"])


class Forks:
    """Workers of one app on one broker; those that are left at the end of the `with` block are killed."""

    def __init__(self, folder: Path, place: Place, app: str, environment: Mapping[str, str] | None = None) -> None:
        self.place = place
        self._app = app
        self._log = folder / "workers.log"
        self._workers: list[BaseProcess] = []
        self._environment = {
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
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            worker.join()

    def start(self, fault: str = "") -> BaseProcess:
        """Start a worker that ends when all is done; `fault` is armed in it."""
        environment = {**self._environment, "PSPF_FAULT": fault}
        worker = _FORKS.Process(target=work, args=(self._app, environment, self._log))
        worker.start()
        self._workers.append(worker)
        return worker

    def wait(self, worker: BaseProcess) -> int:
        """Wait for a worker's end; return its exit code, negative where a signal ended it."""
        worker.join(SECONDS)
        assert worker.exitcode is not None, f"it did not end\n{self.tail_of_log()}"
        return worker.exitcode

    def finish(self) -> None:
        """Let an unharmed worker do what is left."""
        code = self.wait(self.start())
        assert code == 0, f"the unharmed worker ended with {code}\n{self.tail_of_log()}"

    @contextlib.contextmanager
    def frozen(self, worker: BaseProcess) -> Iterator[None]:
        """Wait until a worker has stopped itself; let it go on at the end of the block."""
        assert worker.pid is not None
        status = Path(f"/proc/{worker.pid}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", within_s=SECONDS)
        yield
        os.kill(worker.pid, signal.SIGCONT)

    def tail_of_log(self) -> str:
        """Return the end of what the workers said."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4_000:] if self._log.exists() else ""

"""Heartbeat thread of a worker process: reports its status to the supervisor once a second."""

import threading
from typing import Final

from pspf.backoff import Sparing
from pspf.concurrency.background import attempt, keep_running
from pspf.runtime.status.reports import ReportPipe, Tasks
from pspf.runtime.worker.monitor import Monitor

_BEAT_S: Final = 1.0
_FIRST_BEATS_S: Final = (0.05, 0.1, 0.2, 0.4)
"""A supervisor should soon know of a young process, which may not get old."""


class Heartbeat:
    """Beats from `start` until the process ends."""

    def __init__(self, monitor: Monitor, pipe: ReportPipe) -> None:
        self._monitor = monitor
        self._pipe = pipe
        self._beat_now = threading.Event()
        self._beating = threading.Lock()
        self._failures = Sparing()
        monitor.on_work = self._beat_now.set

    def start(self) -> None:
        """Start to beat."""
        threading.Thread(target=self._run, name="pspf-heart", daemon=True).start()

    def beat(self) -> None:
        """Tell what the process is at, now. One that fails is logged: the next one may not."""
        with self._beating:
            attempt("telling the supervisor what this process is at", self._tell, self._failures)

    def _tell(self) -> None:
        self._pipe.write(self._monitor.take_pulse())

    def tell_tasks(self) -> None:
        """Tell where the coroutines are."""
        self._monitor.ask_tasks(lambda text: self._pipe.write(Tasks(text)))

    def _run(self) -> None:
        keep_running("the heartbeat thread", self._beat_on)

    def _beat_on(self) -> None:
        waits = iter(_FIRST_BEATS_S)
        while True:
            self.beat()
            self._beat_now.wait(next(waits, _BEAT_S))
            self._beat_now.clear()

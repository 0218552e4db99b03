"""File watcher of `--reload`."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from watchfiles import PythonFilter, watch

from pspf.concurrency.background import keep_running

_STEP_MS: Final = 50
_DEBOUNCE_MS: Final = 200
"""How long saves in a row are taken for one; an editor's usually are within 50 ms."""


class FileWatcher:
    """Calls `on_save` with what was saved, from a thread of its own, until the `with` block ends."""

    def __init__(self, folder: Path, on_save: Callable[[str], None]) -> None:
        self._folder = folder
        self._on_save = on_save
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pspf-reload", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(1)

    def _run(self) -> None:
        what = f"the watch over the source files in {self._folder}"
        keep_running(what, self._watch, rest=self._stopping.wait, is_over=self._stopping.is_set)

    def _watch(self) -> None:
        for changes in watch(
            self._folder,
            watch_filter=PythonFilter(),
            step=_STEP_MS,
            debounce=_DEBOUNCE_MS,
            stop_event=self._stopping,
            rust_timeout=500,
            raise_interrupt=False,
        ):
            names = sorted({Path(path).name for _, path in changes})
            self._on_save(f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} saved")

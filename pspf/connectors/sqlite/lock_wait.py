"""The wait for a lock that another program holds on the database: SQLite's busy handler."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BUSY_MS: Final = 4_500
"""How long a call waits for a lock of others: less than a command's 5 s, so that it can say whose it is."""
_STEP_S: Final = 0.002


class LockWait:
    """The busy handler of one connection."""

    def __init__(self) -> None:
        self._is_hasty = False
        """Whether nothing is waited for: a lock of others is an error at once."""
        self._busy_until = 0.0

    def __call__(self, tries: int) -> bool:
        """Return whether SQLite is to try again."""
        if self._is_hasty:
            return False
        now = time.monotonic()
        if tries == 0:
            self._busy_until = now + BUSY_MS / 1000
        time.sleep(_STEP_S)
        return now < self._busy_until

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Wait for nothing inside."""
        self._is_hasty = True
        try:
            yield
        finally:
            self._is_hasty = False

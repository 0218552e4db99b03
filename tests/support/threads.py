"""A process that can start no thread, as at its limit of threads or of memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NO_STACK_HAS_BYTES: Final = 1 << 46


@contextmanager
def no_threads() -> Iterator[None]:
    """Let no thread be started during the block: RuntimeError is what the interpreter raises."""
    threading.stack_size(_NO_STACK_HAS_BYTES)
    try:
        yield
    finally:
        threading.stack_size(0)

"""Process attributes of Linux that the standard library does not set: name, child subreaper."""

import ctypes
import sys
from typing import Final

FORK_SERVER: Final = "pspf-forkserver"

_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36


def name_process(name: str) -> None:
    """Give this process a name, of which 15 bytes are shown. Main thread only; elsewhere than on Linux nothing."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def adopt_orphans() -> bool:
    """Become the parent of processes whose own parent ends; return whether the system can do that."""
    return sys.platform == "linux" and _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def _prctl(option: int, value: object) -> int:
    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))

"""Notice of a slow import of the app, with the line that it is at: a silent worker looks dead."""

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from pspf.runtime.app.loader import find_user_frame

_FIRST_S: Final = 10.0
_THEN_S: Final = 60.0


@contextmanager
def telling_where(target: str, say: Callable[[str], None], *, first_s: float = _FIRST_S) -> Iterator[None]:
    """Say where the block is after `first_s`, and then once a minute. Main thread only.

    By an alarm signal and not by a thread: this process is to be forked while it has one.
    """
    begun_s = time.monotonic()

    def tell(number: int, frame: FrameType | None) -> None:
        place = find_user_frame(traceback.extract_stack(frame))
        where = "" if place is None else f"\n  it is at {place.filename}:{place.lineno}: {place.line}"
        say(f"{target} is still being imported after {time.monotonic() - begun_s:.0f} s{where}")

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, first_s, _THEN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

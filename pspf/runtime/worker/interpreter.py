"""Interpreter settings of a worker process: thread switches, garbage collection."""

import gc
import sys
from typing import Final

_SWITCH_INTERVAL_S: Final = 0.0005
_NEW_OBJECTS: Final = 10_000


def tune_interpreter() -> None:
    """Set thread switches and garbage collection of the whole process."""
    # The broker's thread needs the interpreter between rows. While a handler computes, the default
    # of 5 ms would be the price of each of these turns.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # A batch is thousands of objects that come together and go together, with no cycle among them. By the default of
    # 700 the collector looks through them a dozen times while they come: a tenth of what a batch costs.
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])

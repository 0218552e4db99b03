"""The app of the toy operator's fault tests. `FAULTS_BATCH_SIZE` is the most records of a batch."""

import os

from pspf import Stream
from tests.support.debouncing import add_debounce

stream = Stream(topic="ticks", group="debounce")
add_debounce(stream, quiet_ms=50, batch_size=int(os.environ.get("FAULTS_BATCH_SIZE", "5")))

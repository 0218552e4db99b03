"""What is kept as JSON takes no more memory than its bytes: a state, an event, headers."""

import sys
import tracemalloc
from collections.abc import Callable

import pytest

from pspf.events.encoding import encode
from pspf.events.state_values import encode_value
from pspf.records import encode_headers
from pspf.windowing.aggregations import Count
from pspf.windowing.folds import ReadyFold, dump_state

KEPT = 1_000


@pytest.mark.parametrize(
    "write",
    [
        lambda: encode({"event_type": "Bid", "price": 1}).value,
        lambda: encode({"price": 1}).value,
        lambda: encode_value("last", {"price": 1}),
        lambda: dump_state({"bids": 1}),
        lambda: ReadyFold(Count()).encode(1_000),
        lambda: encode_headers({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}),
    ],
    ids=["event", "event without a type", "state", "window of a handler", "ready window", "headers"],
)
def test_what_is_kept_takes_its_own_size(write: Callable[[], bytes]) -> None:
    write()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [write() for _ in range(KEPT)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    own = sum(map(sys.getsizeof, kept)) + sys.getsizeof(kept)
    assert after - before < 1.5 * own

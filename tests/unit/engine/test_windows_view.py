"""What stored progress says of windows to those who look from outside."""

from typing import Any

import orjson

from pspf import Count, SlidingWindow, TumblingWindow
from pspf.engine.operators.registry import read_view
from pspf.windowing.definitions import Windowing
from pspf.windowing.event_time import encode_key
from pspf.windowing.inspect import SpanView, tell
from pspf.windowing.progress import HostProgress, Progress, describe


def encode(windowing: Windowing, watermark_ms: int, progress: Progress, told: dict[str, Any] | None = None) -> bytes:
    host = HostProgress(watermark_ms=watermark_ms)
    return orjson.dumps({**describe(windowing), **(told or {}), **host.as_json(), **progress.as_json()})


def view(windowing: Windowing, progress: Progress) -> SpanView:
    found = read_view(encode(windowing, progress.frontier_ms, progress, tell(windowing)))
    assert isinstance(found, SpanView)
    return found


def is_open(found: SpanView, start: int, key: str | None) -> bool:
    return found.read(start, encode_key(key), [b"1"]).is_open


CLOSING = Windowing(TumblingWindow(10), Count(), to="out", emit="final", allowed_lateness_ms=5)


def test_a_window_is_open_until_its_lateness_is_over() -> None:
    found = view(CLOSING, Progress(frontier_ms=24))
    assert [is_open(found, start, "a") for start in (0, 10, 20)] == [False, True, True]


def test_windows_that_never_close_are_open() -> None:
    found = view(Windowing(TumblingWindow(10), Count()), Progress(frontier_ms=1_000))
    assert is_open(found, 0, "a")


def test_a_window_that_waits_for_a_key_is_open_for_this_one_alone() -> None:
    found = view(CLOSING, Progress(frontier_ms=30, withheld=[(0, "b")]))
    assert [is_open(found, 0, key) for key in ("a", "b", None)] == [False, True, False]
    assert (found.is_closed(0), found.has_withheld(0), found.has_withheld(10)) == (True, True, False)


def test_a_window_that_is_being_closed_is_open_for_the_keys_to_come() -> None:
    found = view(CLOSING, Progress(frontier_ms=14, closing=(0, "b")))
    assert [is_open(found, 0, key) for key in (None, "a", "b", "c")] == [False, False, False, True]


def test_slices_are_parts_of_the_windows_that_begin_before_them() -> None:
    found = view(Windowing(SlidingWindow(30, 20), Count(), to="out", emit="final"), Progress())
    assert found.starts([40]) == [20, 40]
    assert list(found.slots_of(20)) == [20, 30, 40]


def test_progress_that_an_earlier_version_stored_is_read() -> None:
    found = read_view(encode(CLOSING, 5, Progress(frontier_ms=5)))
    assert isinstance(found, SpanView)
    assert found.read(0, b"=a", [b"1"]).value == b"1"
    assert read_view(b'{"version":1,"kind":"router"}') is None


def test_a_window_is_closed_at_the_moment_that_its_lateness_is_over() -> None:
    for frontier_ms, expected in ((14, True), (15, False), (16, False)):
        found = view(CLOSING, Progress(frontier_ms=frontier_ms))
        assert (is_open(found, 0, "a"), found.is_closed(0)) == (expected, not expected)

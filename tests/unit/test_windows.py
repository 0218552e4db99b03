"""Window types: which windows a time belongs to, and what can't be configured."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf import SessionWindow, SlidingWindow, TumblingWindow
from pspf.errors import ConfigurationError
from pspf.events.durations import describe_ms
from pspf.windowing.definitions import Windowing


def test_a_tumbling_window_is_aligned_to_the_epoch_and_half_open() -> None:
    window = TumblingWindow(10_000)
    assert window.assign_windows(0) == [(0.0, 10.0)]
    assert window.assign_windows(9.999) == [(0.0, 10.0)]
    assert window.assign_windows(10) == [(10.0, 20.0)]


def test_times_before_the_epoch_have_windows_too() -> None:
    assert TumblingWindow(10_000).assign_windows(-0.001) == [(-10.0, 0.0)]
    assert TumblingWindow(10_000).assign_windows(-10) == [(-10.0, 0.0)]
    assert SlidingWindow(4_000, 2_000).assign_windows(-1) == [(-4.0, 0.0), (-2.0, 2.0)]


def test_sliding_windows_overlap() -> None:
    assert SlidingWindow(60_000, 20_000).assign_windows(50) == [(0.0, 60.0), (20.0, 80.0), (40.0, 100.0)]


def test_sliding_windows_further_apart_than_long_leave_gaps() -> None:
    window = SlidingWindow(2_000, 5_000)
    assert window.assign_windows(6) == [(5.0, 7.0)]
    assert window.assign_windows(7) == []


def test_a_record_alone_is_a_session_as_long_as_the_gap() -> None:
    assert SessionWindow(30_000).assign_windows(5) == [(5.0, 35.0)]


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_windows_of_a_time_are_all_that_hold_it(time_ms: int, size_ms: int, slide_ms: int) -> None:
    starts = SlidingWindow(size_ms, slide_ms).starts_of(time_ms)
    near = range(time_ms // slide_ms - size_ms // slide_ms - 2, time_ms // slide_ms + 3)
    if len(near) < 5_000:
        held = [n * slide_ms for n in near if n * slide_ms <= time_ms < n * slide_ms + size_ms]
        assert list(starts) == held
    assert all(start % slide_ms == 0 and start <= time_ms < start + size_ms for start in starts[:10])


@pytest.mark.parametrize("make", [TumblingWindow, SessionWindow, lambda size: SlidingWindow(size, 1)])
@pytest.mark.parametrize("size", [0, -1, 1.5, True, "soon"])
def test_a_size_is_whole_milliseconds(make: Any, size: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"whole milliseconds|no span of time"):
        make(size)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 10_000}, "TumblingWindow"),
        ({"emit": "sometimes", "to": "out"}, "'final', 'updates' or None"),
        ({"emit": "final"}, "give both or none"),
        ({"to": "out"}, "give both or none"),
        ({"emit": "final", "to": "ticks-late"}, "written by PSPF alone"),
        ({"result": print}, "needs to="),
        ({"merge": print}, "for session windows"),
        ({"key": 7}, "a field's name"),
        ({"watermark_delay_ms": -1}, "watermark_delay_ms"),
        ({"own_retention_ms": -1}, "retention_ms"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Windowing(**{"window": TumblingWindow(1_000), **options}).check("handler h")


def test_silence_can_close_only_what_can_close() -> None:
    with pytest.raises(ConfigurationError, match="idle_timeout_ms closes windows"):
        Windowing(TumblingWindow(1_000), idle_timeout_ms=5).check("handler h")
    Windowing(TumblingWindow(1_000), idle_timeout_ms=5, watermark_delay_ms=1).check("handler h")


def test_windows_close_only_where_that_was_asked_for() -> None:
    window = TumblingWindow(1_000)
    assert not Windowing(window).closes
    assert not Windowing(window, emit="updates", to="out").closes
    assert Windowing(window, emit="final", to="out").closes
    assert Windowing(window, watermark_delay_ms=1).closes
    assert (Windowing(window).retention_ms, Windowing(window, emit="final", to="o").retention_ms) == (86_400_000, 0)


def test_durations_read_as_people_say_them() -> None:
    assert [describe_ms(n) for n in (1_500, 10_000, 3_600_000, 86_400_000)] == ["1500ms", "10s", "1h", "1d"]

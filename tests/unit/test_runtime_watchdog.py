"""What counts as a stall, and what does not."""

import pytest

from pspf.runtime.reports import Busy, Pulse
from pspf.runtime.watchdog import find_trouble

STALL_MS = 30_000


def pulse(*, loop_silent_ms: int | None = 100, unanswered_ms: int = 0, busy: tuple[Busy, ...] = ()) -> Pulse:
    return Pulse("running", loop_silent_ms, unanswered_ms, is_connected=True, is_at_work=True, session="s", busy=busy)


def trouble(of: Pulse, *, pulse_age_ms: int = 500, broker_answers_ms: int = 1_000_000) -> str | None:
    return find_trouble(of, pulse_age_ms=pulse_age_ms, broker_answers_ms=broker_answers_ms, stall_ms=STALL_MS)


def test_a_loop_that_turns_is_no_trouble() -> None:
    assert trouble(pulse()) is None


def test_a_handler_that_takes_for_ever_is_no_trouble() -> None:
    assert trouble(pulse(busy=(Busy("orders", "g", "h", 0, 1, for_ms=10 * 60_000),))) is None


@pytest.mark.parametrize(("silent_ms", "age_ms"), [(30_500, 500), (100, 31_000)], ids=["blocked", "stopped"])
def test_a_silent_loop_is_trouble(silent_ms: int, age_ms: int) -> None:
    assert trouble(pulse(loop_silent_ms=silent_ms), pulse_age_ms=age_ms) is not None


def test_the_second_between_two_pulses_is_no_silence() -> None:
    assert find_trouble(pulse(loop_silent_ms=500), pulse_age_ms=1_400, broker_answers_ms=0, stall_ms=1_000) is None


def test_a_process_without_a_loop_yet_may_take_its_time() -> None:
    assert trouble(pulse(loop_silent_ms=None), pulse_age_ms=10**6) is None


def test_an_idle_read_is_no_trouble() -> None:
    assert trouble(pulse(unanswered_ms=34_000)) is None


def test_a_broker_that_answers_others_but_not_this_process_is_trouble() -> None:
    assert "has not answered it" in (trouble(pulse(unanswered_ms=36_000)) or "")


def test_a_broker_that_is_down_for_all_is_waited_for() -> None:
    assert trouble(pulse(unanswered_ms=600_000), broker_answers_ms=0) is None


def test_a_broker_that_is_just_back_gets_time_to_answer() -> None:
    assert trouble(pulse(unanswered_ms=600_000), broker_answers_ms=20_000) is None

"""Waits between tries of something that fails."""

from pspf.backoff import Backoff, backoff_ms


def test_waits_double_up_to_the_longest_and_are_spread_by_a_fifth() -> None:
    for failures, expected in ((1, 100), (2, 200), (4, 800), (50, 5_000)):
        assert expected * 0.8 <= backoff_ms(failures) <= expected * 1.2


def test_what_fails_and_succeeds_in_turn_waits_longer_each_time_where_nobody_resets() -> None:
    backoff = Backoff()
    waits = [backoff.next_after_first_ms() for _ in range(5)]
    assert waits[0] == 0
    assert waits[1] < waits[2] < waits[3] < waits[4]
    assert not backoff.is_first


def test_a_reset_makes_the_next_failure_the_first() -> None:
    backoff = Backoff()
    backoff.next_ms()
    backoff.reset()
    assert backoff.is_first
    assert backoff.next_after_first_ms() == 0

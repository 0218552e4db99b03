"""How long a process that crashed waits, and when its place is hopeless."""

from pspf.runtime.supervision.restarts import RestartPolicy, Restarts

EXACT = RestartPolicy(jitter=0)


def crash(restarts: Restarts, *, lived_ms: int = 10, began: bool = False, got_on: bool = False) -> int:
    return restarts.note_crash(lived_ms=lived_ms, began=began, got_on=got_on)


def test_waits_double_from_one_second_to_sixty() -> None:
    restarts = Restarts(EXACT)
    assert [crash(restarts) // 1000 for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_waits_are_spread() -> None:
    waits = {Restarts(RestartPolicy()).note_crash(lived_ms=1, began=False, got_on=False) for _ in range(50)}
    assert len(waits) > 5
    assert all(800 <= wait_ms <= 1_200 for wait_ms in waits)


def test_a_process_that_lived_long_starts_the_count_anew() -> None:
    restarts = Restarts(EXACT)
    crash(restarts)
    crash(restarts)
    assert crash(restarts, lived_ms=60_000) == 1_000
    assert restarts.in_a_row == 1
    assert restarts.total == 3


def test_a_process_that_committed_something_starts_the_count_anew() -> None:
    restarts = Restarts(EXACT)
    crash(restarts)
    assert crash(restarts, began=True, got_on=True) == 1_000


def test_a_place_whose_processes_never_begin_is_hopeless_after_five() -> None:
    restarts = Restarts(EXACT)
    for _ in range(4):
        crash(restarts)
        assert not restarts.is_hopeless
    crash(restarts)
    assert restarts.is_hopeless
    restarts.reset()
    assert not restarts.is_hopeless


def test_a_record_that_ends_its_process_has_time_to_be_found() -> None:
    restarts = Restarts(EXACT)
    for _ in range(19):
        crash(restarts, began=True)
        assert not restarts.is_hopeless
    crash(restarts, began=True)
    assert restarts.is_hopeless

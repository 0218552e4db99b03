"""How long nothing new was read, as far as reads have shown it."""

from pspf.engine.idleness import IdleTracker


def read(silence: IdleTracker, at_ms: int, *, finds: bool = False) -> None:
    silence.begin_read(at_ms)
    if finds:
        silence.end()
    else:
        silence.go_on()


def test_silence_counts_from_the_first_read_that_finds_nothing() -> None:
    silence = IdleTracker()
    read(silence, 100, finds=True)
    assert silence.lasted_ms == 0
    read(silence, 500)
    assert silence.lasted_ms == 0
    read(silence, 800)
    assert silence.lasted_ms == 300


def test_a_read_that_is_under_way_shows_nothing_yet() -> None:
    silence = IdleTracker()
    read(silence, 100)
    silence.begin_read(900)
    assert silence.lasted_ms == 0
    assert silence.shown == 1


def test_something_new_ends_it() -> None:
    silence = IdleTracker()
    read(silence, 100)
    read(silence, 900)
    read(silence, 950, finds=True)
    assert (silence.lasted_ms, silence.shown) == (0, 0)
    read(silence, 1_000)
    assert (silence.lasted_ms, silence.shown) == (0, 4)


def test_reads_wait_until_the_next_one_shows_it() -> None:
    silence = IdleTracker()
    assert silence.left_ms(300, 100) == 300
    read(silence, 100)
    assert silence.left_ms(300, 250) == 150
    assert silence.left_ms(300, 500) == 0

"""How errors and keys look in a log."""

from pspf.engine.failure_log import shorten


def test_nothing_can_forge_a_line_of_the_log() -> None:
    assert shorten("a\nERROR b\x1b[31m\ud800") == "a\\nERROR b\\x1b[31m\\ud800"


def test_long_text_is_cut() -> None:
    assert shorten("x" * 500) == "x" * 200 + "..."

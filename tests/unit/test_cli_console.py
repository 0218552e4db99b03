"""Text for terminals and for programs."""

import contextlib
import errno

import pytest

from pspf.cli import console
from pspf.cli.console import format_span, format_time, shorten, visible, write_table


def test_a_table_is_aligned_text_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("name", "count"), [("a", 5), ("long", 1234), ("x", None)])
    assert capsys.readouterr().out == "NAME  COUNT\na         5\nlong   1234\nx         -\n"


def test_an_empty_table_is_said_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("name",), [], empty="nothing there")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nothing there\n")


def test_control_characters_are_shown_as_escapes() -> None:
    assert visible("a\x1b[31m\u202eb\n") == "a\\x1b[31m\\u202eb\\n"


def test_times_and_spans_are_short() -> None:
    assert format_time(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert format_time(None) == "-"
    assert format_time(1 << 62) == f"{1 << 62} ms"
    spans = [812, 3_200, 300_000, 7_200_000, 604_800_000, None]
    assert [format_span(span) for span in spans] == ["812 ms", "3.2 s", "5 min", "2.0 h", "7 d", "-"]


def test_long_text_is_cut_where_it_is_said() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"


def test_a_reader_that_left_is_told_apart_from_an_error() -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    with contextlib.redirect_stdout(Gone()):  # type: ignore[type-var]
        with pytest.raises(console.ClosedPipe):
            console.write("x")
        with pytest.raises(console.ClosedPipe):
            console.flush()
    with contextlib.redirect_stderr(Gone()):  # type: ignore[type-var]
        console.say("x")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_talk_that_nobody_takes_is_no_failure(number: int) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError(number, "gone")

        def flush(self) -> None:
            raise OSError(number, "gone")

    with contextlib.redirect_stderr(Gone()):  # type: ignore[type-var]
        console.say("x")

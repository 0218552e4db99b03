"""Lines out of chunks, however the chunks are cut."""

import io

from hypothesis import given
from hypothesis import strategies as st

from pspf.cli.services.lines import MAX_LINE_BYTES, Line, LineSplitter, read_lines


@given(st.lists(st.binary(max_size=8)), st.integers(1, 5), st.integers(1, 4))
def test_lines_don_t_depend_on_how_they_arrive(raw: list[bytes], chunk: int, at_most: int) -> None:
    text = b"\n".join(raw)
    stream = io.BytesIO(text)
    groups = list(read_lines(lambda size: stream.read(chunk), at_most=at_most))
    expected = [
        Line(number, stripped)
        for number, line in enumerate(text.split(b"\n"), 1)
        if (stripped := (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip(b" \t\r"))
    ]
    assert [line for group in groups for line in group] == expected
    assert all(1 <= len(group) <= at_most for group in groups)


def test_a_line_without_end_is_given_up_and_the_next_one_is_read() -> None:
    splitter = LineSplitter()
    lines = []
    for _ in range(MAX_LINE_BYTES // (1 << 20) + 2):
        lines += splitter.feed(b"x" * (1 << 20))
    lines += splitter.feed(b"\n{}\n")
    assert lines + splitter.finish() == [Line(1, None), Line(2, b"{}")]

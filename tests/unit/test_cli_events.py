"""JSON text to records, and where it is wrong."""

import pytest

from pspf.cli.services.events import Recipe, decode_line, parse_event
from pspf.connectors.contract.limits import Limits
from pspf.errors import EventRejected, SchemaError


def message(text: str) -> str:
    with pytest.raises(SchemaError) as caught:
        parse_event(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "place", "under"),
    [
        ('{"a": 1,, }', "line 1, column 9", ","),
        ('{"a":\n  1 2}', "line 2, column 5", "2"),
        ('{"k": "' + "v" * 200 + '" oops', "line 1, column 210", "o"),
        ('{"\u00e9\u00e9": x}', "line 1, column 8", "x"),
    ],
)
def test_a_syntax_error_is_shown_where_it_is(text: str, place: str, under: str) -> None:
    first, line, caret = message(text).splitlines()
    assert place in first
    assert line[caret.index("^")] == under
    assert len(line) < 70


def test_the_end_of_the_text_can_be_the_place() -> None:
    assert message('{"a": 1').splitlines()[2].index("^") == len('  {"a": 1')


def test_control_characters_of_the_input_don_t_reach_the_terminal() -> None:
    assert "\x1b" not in message('{"\x1b[31m": 1')


@pytest.mark.parametrize(
    "text", ["[]", "1", '"x"', "null", "true", "NaN", '{"a": NaN}', '{"a": -Infinity}', "1" * 5000]
)
def test_what_is_no_object_of_json_is_refused(text: str) -> None:
    message(text)


def test_json_that_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(EventRejected):
        parse_event('{"a":' * 100_000)


def test_a_line_that_is_not_utf_8_is_refused_with_its_column() -> None:
    with pytest.raises(SchemaError, match="0xff at column 3"):
        decode_line(b"ab\xff")


def test_a_recipe_adds_what_the_command_line_names() -> None:
    record = Recipe(Limits(), "k", {"a": "b"}, "Order", "e1").make_record('{"n": 1, "event_type": "X", "key": "other"}')
    assert (record.raw_key, record.event_id, record.raw_headers) == (b"k", "e1", b'{"a":"b"}')
    assert parse_event(record.value.decode())["event_type"] == "Order"
    plain = Recipe(Limits()).make_record('{"key": "own", "event_id": "e2"}')
    assert (plain.raw_key, plain.event_id, plain.raw_headers) == (b"own", "e2", None)


def test_an_event_beyond_the_limits_is_refused() -> None:
    with pytest.raises(EventRejected, match="at most 50"):
        Recipe(Limits(max_record_bytes=50)).make_record('{"text": "' + "x" * 50 + '"}')

"""`pspf emit`: good input is stored, bad input is explained."""

import json
import time

import pytest

from tests.process.commands import Folder

BAD = b'{"n": 1}\n{"n": 2,}\n\n[3]\n{"n": NaN}\n\xff\n{"n": 123456789012345678901234567890}\n{"n": 6}\n'


def stored(folder: Folder, topic: str = "orders") -> list[int]:
    return [record["event"]["n"] for record in folder.ok("tail", topic, "--jsonl").json_lines]


def test_bad_json_is_refused_with_its_position_and_nothing_is_made(folder: Folder) -> None:
    ended = folder.pspf("emit", "orders", '{"n": 1,, }')
    assert (ended.code, ended.out) == (2, "")
    assert "line 1, column 9" in ended.err
    lines = ended.err.splitlines()
    assert lines[1][lines[2].index("^")] == ","
    assert not (folder.path / ".pspf").exists()


def test_a_topic_that_an_emit_makes_is_named_with_the_nearest_other(folder: Folder) -> None:
    assert "topic 'orders' is new, with one partition\n" in folder.pspf("emit", "orders", '{"n": 1}').err
    again, mistyped = folder.each(("emit", "orders", '{"n": 2}'), ("emit", "oders", '{"n": 1}'))
    assert "is new" not in again.err
    assert "topic 'oders' is new, with one partition; did you mean 'orders'?\n" in mistyped.err
    many = folder.pspf("emit", "order", "-", stdin=b'{"n": 1}\n')
    assert "topic 'order' is new, with one partition; did you mean 'orders'?\n" in many.err


@pytest.mark.parametrize("text", ["[1]", "7", "null", '{"n": 1} x', "", '{"a": 1e400}', '{"a": "\\ud800"}', "[" * 5000])
def test_what_is_no_event_ends_with_code_2_and_a_short_message(folder: Folder, text: str) -> None:
    ended = folder.look("emit", "orders", text)
    assert (ended.code, ended.out) == (2, "")
    assert "Traceback" not in ended.err
    assert 1 <= len(ended.err.splitlines()) <= 6


def test_key_headers_type_and_id_are_stored(folder: Folder) -> None:
    arguments = ("emit", "orders", '{"n": 1}', "-k", "ann", "-H", "a=1", "-H", "b=x=y", "--type", "Order", "--id", "e1")
    assert folder.ok(*arguments, "--json").json == {"id": "1", "topic": "orders", "partition": 0}
    assert folder.ok(*arguments).out == "1\n"
    records = folder.ok("tail", "orders", "--jsonl").json_lines
    assert len(records) == 1
    assert records[0]["key"] == "ann"
    assert records[0]["headers"] == {"a": "1", "b": "x=y"}
    assert records[0]["event"] == {"n": 1, "event_type": "Order", "event_id": "e1"}


def test_the_good_lines_of_a_file_are_emitted_and_the_bad_ones_named(folder: Folder) -> None:
    (folder.path / "orders.ndjson").write_bytes(BAD)
    ended = folder.pspf("emit", "orders", "@orders.ndjson", "--json")
    assert ended.code == 8
    assert ended.json == {"emitted": 2, "duplicates": 0, "failed": 5}
    for number in (2, 4, 5, 6, 7):
        assert f"line {number}: " in ended.err
    assert stored(folder) == [1, 6]


@pytest.mark.parametrize("source", ["@orders.ndjson", "-"])
def test_strict_emits_nothing_where_one_line_is_bad(folder: Folder, source: str) -> None:
    (folder.path / "orders.ndjson").write_bytes(BAD)
    ended = folder.pspf("emit", "orders", source, "--strict", "--json", stdin=BAD)
    assert ended.code == 2
    assert ended.json == {"emitted": 0, "duplicates": 0, "failed": 5}
    assert folder.look("tail", "orders").code == 6
    assert folder.pspf("emit", "orders", source, "--strict", stdin=b'{"n": 1}').code == (0 if source == "-" else 2)


def test_strict_finds_an_event_that_is_too_large_before_it_emits(folder: Folder) -> None:
    lines = '{"n": 1}\n' + json.dumps({"n": 2, "text": "x" * 1_100_000})
    assert folder.pspf("emit", "orders", "-", "--strict", stdin=lines).code == 2
    assert folder.look("tail", "orders").code == 6
    assert folder.pspf("emit", "orders", "-", stdin=lines).code == 8
    assert stored(folder) == [1]


def test_lines_without_an_argument_come_from_a_pipe(folder: Folder) -> None:
    folder.run("emit", "orders", stdin='\ufeff{"n": 1}\r\n\n{"n": 2}')
    assert stored(folder) == [1, 2]


def test_a_rate_spreads_the_events_over_time(folder: Folder) -> None:
    begun = time.monotonic()
    folder.run("emit", "orders", "-", "--rate", "20/s", stdin='{"n": 1}\n' * 20)
    assert time.monotonic() - begun > 0.8


def test_what_can_not_be_meant_ends_with_code_2(folder: Folder) -> None:
    for arguments in (
        ("emit", "no topic", "{}"),
        ("emit", "orders-dlq", "{}"),
        ("emit", "orders", "{}", "-H", "x"),
        ("emit", "orders", "@missing.ndjson"),
        ("emit", "orders", "-", "--id", "e1"),
        ("emit", "orders", "{}", "--backend", "memory://"),
        ("emit", "orders", "{}", "--backend", "sqlit:///x.db"),
    ):
        ended = folder.look(*arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert "Traceback" not in ended.err


def test_a_broker_that_can_not_be_opened_ends_with_code_4(folder: Folder) -> None:
    ended = folder.pspf("emit", "orders", "{}", "--backend", "sqlite:////proc/nowhere/broker.db")
    assert ended.code == 4
    assert "/proc/nowhere/broker.db" in ended.err


def test_an_error_shows_its_traceback_only_when_asked(folder: Folder) -> None:
    assert "Traceback" not in folder.pspf("emit", "orders", "{").err
    assert "Traceback" in folder.pspf("emit", "orders", "{", "-v").err

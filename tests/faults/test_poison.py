"""Records that end their process, and bytes that are no event: dead letters, and only they."""

import json
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from pspf.records import NewRecord, Record
from tests.faults.runs import SECONDS, TOPIC, Place, Run, check_exactly_once, make_events
from tests.faults.side_by_side import at_all_places, run_side_by_side
from tests.support.workers import read_all

MAX_CRASHES: Final = 3


@pytest.mark.parametrize(("handler", "at"), [("totals", 83), ("alerts", 40)], ids=["ordered", "shared"])
@at_all_places()
async def test_a_record_that_always_kills_is_the_only_dead_letter(
    tmp_path: Path, place: Place, handler: str, at: int
) -> None:
    events = make_events(120, 6)
    run = Run(tmp_path, place, partitions=2, lease_ms=1_000)  # on a server each worker waits for the last one's
    await run.fill([event.as_record() for event in events])
    kills = 0
    while (code := run.start(FAULTS_KILL=f"{handler}:{at}").wait(SECONDS)) != 0:
        assert code == -9, f"exit code {code}\n{run.tail_of_log()}"
        kills += 1
        assert kills < 20, f"still killing\n{run.tail_of_log()}"
    assert kills > MAX_CRASHES, "a batch runs together once before one record is alone"
    async with run.open() as broker:
        await check_exactly_once(broker, events, dead={handler: [at]})
        letters = await broker.list_dead_letters()
        assert [letter.error_type.rpartition(".")[2] for letter in letters] == ["HandlerCrashed"]
    run.check()


@pytest.mark.parametrize("times", [MAX_CRASHES, MAX_CRASHES + 1])
def test_a_record_is_given_up_after_so_many_crashes_alone_and_not_before(tmp_path: Path, times: int) -> None:
    """The first crash is nobody's: it was not noted what ran."""
    runs = {}
    for mode, handler, at in (("ordered", "totals", 3), ("shared", "alerts", 7)):
        (tmp_path / mode).mkdir()
        runs[mode] = partial(crash, tmp_path / mode, handler, at, times)
    run_side_by_side(runs)


async def crash(folder: Path, handler: str, at: int, times: int) -> None:
    """Let a handler end its process at an event so many times; check whether it is a dead letter then."""
    events = make_events(9, 2)
    run = Run(folder, partitions=1)
    await run.fill([event.as_record() for event in events])
    for _ in range(times):
        assert run.start(FAULTS_KILL=f"{handler}:{at}", FAULTS_BATCH_SIZE="1").wait(SECONDS) == -9, run.tail_of_log()
    run.finish()
    async with run.open() as broker:
        await check_exactly_once(broker, events, dead={handler: [at]} if times > MAX_CRASHES else {})


GOOD: Final = make_events(60, 4)

BAD_VALUES: Final = {
    "empty": b"",
    "cut off": b'{"n": 1, "key": "a',
    "null": b"null",
    "scalar": b"42",
    "list": b"[1, 2]",
    "no number": b'{"n": "many"}',
    "missing": b'{"key": "a"}',
    "BOM": b'\xef\xbb\xbf{"n": 1}',
    "UTF-16": '{"n": 1}'.encode("utf-16"),
    "not UTF-8": b'{"n": 1, "name": "\xff\xfe"}',
    "lone surrogate": b'{"n": 1, "name": "\\ud800"}',
    "NaN": b'{"n": NaN}',
    "infinite": b'{"n": 1e400}',
    "many digits": b'{"n": 1' + b"0" * 5_000 + b"}",
    "deep": b'{"n": 1, "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "huge and cut off": b'{"n": 1, "name": "' + b"x" * 1_000_000,
}


@at_all_places()
async def test_bytes_that_are_no_event_are_dead_letters_and_their_neighbours_are_handled(
    tmp_path: Path, place: Place
) -> None:
    records = [event.as_record() for event in GOOD]
    for number, value in enumerate(BAD_VALUES.values()):
        records.insert(number * 4 + 1, NewRecord(GOOD[number].key.encode(), value))
    run = Run(tmp_path, place, partitions=2)
    await run.fill(records)
    run.finish()
    async with run.open() as broker:
        letters = await broker.list_dead_letters()
        for handler in ("totals", "alerts"):
            dead = {letter.record.value for letter in letters if letter.handler == handler}
            missing = [name for name, value in BAD_VALUES.items() if value not in dead]
            assert not missing, f"{handler} has no dead letter for {missing}\n{run.tail_of_log()}"
            assert len(dead) == len(BAD_VALUES)
        assert len(letters) == 2 * len(BAD_VALUES)
        await broker.purge_dead_letters(letters)
        await check_exactly_once(broker, GOOD)


BAD_ENVELOPES: Final = {
    "key not UTF-8": NewRecord(b"\xff\xfe", b'{"n": 14}'),
    "key with NUL": NewRecord(b"a\x00b", b'{"n": 28}'),
    "headers not JSON": NewRecord(b"a", b'{"n": 42}', b"{oops"),
    "headers a list": NewRecord(b"a", b'{"n": 56}', b"[1]"),
    "headers not UTF-8": NewRecord(b"a", b'{"n": 70}', b'{"a": "\xff"}'),
    "headers deep": NewRecord(b"a", b'{"n": 84}', b"[" * 8_000),
}


@at_all_places()
async def test_no_record_with_a_broken_key_or_headers_is_lost(tmp_path: Path, place: Place) -> None:
    run = Run(tmp_path, place, partitions=1)
    around = [NewRecord(b"a", b'{"n": 700}'), *BAD_ENVELOPES.values(), NewRecord(b"a", b'{"n": 707}')]
    await run.fill(around)
    run.finish()
    async with run.open() as broker:
        letters = await broker.list_dead_letters()
        stored = await read_all(broker, TOPIC)
        for handler, topic in (("totals", "totals"), ("alerts", "alerts")):
            dead = [letter.record for letter in letters if letter.handler == handler]
            handled = [json.loads(record.value)["n"] for record in await read_all(broker, topic)]
            assert sorted(handled + [number(record) for record in dead]) == sorted(number(one) for one in stored)
            assert {700, 707} <= set(handled)
            assert number_of(BAD_ENVELOPES["key not UTF-8"]) in {number(record) for record in dead}
            for record in dead:
                assert (record.raw_key, record.value) in {(one.raw_key, one.value) for one in around}
        assert [info.lag for info in await broker.list_cursors()] == [0, 0]


def number(record: Record) -> int:
    """Return the number in a record."""
    return number_of(NewRecord(record.raw_key, record.value))


def number_of(record: NewRecord) -> int:
    """Return the number in a record to append."""
    n = json.loads(record.value)["n"]
    assert isinstance(n, int)
    return n

"""How sessions are stored: in rows of their own, written as they change, read also as they were stored before."""

import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf import BaseEvent, Count, SessionWindow, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.membership import Session
from pspf.records import Commit, Cursor
from pspf.windowing.session_rows import PAGE_BYTES, ROWS, TOGETHER, before_rows, row_key, split_row_key
from tests.integration.running import read_events, run_until_drained
from tests.support.brokers import leased
from tests.support.windows import with_windows

KEYS = st.none() | st.text(max_size=6) | st.sampled_from(["", "\0", "a", "a\0", "ab"])


@given(KEYS, KEYS)
def test_rows_are_in_the_order_of_their_keys_and_numbers(one: str | None, other: str | None) -> None:
    rows = [(key, number, row) for key in (one, other) for number in (0, 300) for row in (0, 70_000)]
    assert [split_row_key(row_key(*each)) for each in rows] == rows
    by_text = sorted(set(rows), key=lambda row: (row[0] is not None, (row[0] or "").encode("utf-8"), row[1:]))
    assert sorted(set(rows), key=lambda row: row_key(*row)) == by_text
    assert row_key(one, 5, 5).startswith(before_rows(other)) == (one == other)


async def count(event: BaseEvent, state: int | None) -> int:
    return (state or 0) + 1


def make(backend: StreamingBackend, fold: Any, **options: Any) -> Stream:
    stream = Stream(backend)
    stream.window("ticks", SessionWindow(2_000), name="w", to="out", **options)(fold)
    return stream


async def send(stream: Stream, times: list[float], **fields: Any) -> None:
    await stream.emit_many([{"timestamp": at, "key": "k", **fields} for at in times], "ticks")
    await run_until_drained(stream)


async def rows_of(stream: Stream) -> dict[bytes, bytes]:
    """Return what is stored of sessions, none of it together."""
    (kept,) = await stream.broker.list_operators()
    assert list(kept.namespaces) in ([ROWS], [])
    return dict(await stream.broker.scan_entries(kept.cursor, ROWS, after=None, max_entries=1_000))


async def results(stream: Stream) -> list[tuple[int, int, int]]:
    events = await read_events(stream.broker, "out")
    return [(each["window_start_ms"] // 1000, each["window_end_ms"] // 1000, each["value"]) for each in events]


async def test_a_commit_writes_the_rows_of_what_changed_and_no_others(backend: StreamingBackend) -> None:
    stream = make(backend, Count(), emit="updates")
    await send(stream, [10, 20, 30])
    before = await rows_of(stream)
    assert len(before) == 3
    await send(stream, [20])
    after = await rows_of(stream)
    assert [key for key in after if after[key] != before[key]] == [row_key("k", 1, 0)]


async def test_a_full_page_of_records_is_written_once(backend: StreamingBackend) -> None:
    stream = make(backend, count, emit="final", watermark_delay_ms=1_000)
    pad = "x" * 4_000
    for at in range(4):
        await send(stream, [10 + at + part / 10 for part in range(3)], pad=pad)
    rows = await rows_of(stream)
    assert list(rows) == [row_key("k", 0, row) for row in range(len(rows))]
    sizes = [len(value) for value in rows.values()]
    assert all(PAGE_BYTES <= size < PAGE_BYTES + 5_000 for size in sizes[1:-1])
    assert len(sizes) > 3
    await send(stream, [40])
    assert (10, 15, 12) in [(start, end, value) for start, end, value in await results(stream)]
    assert all(split_row_key(key)[1] == 1 for key in await rows_of(stream))


@pytest.mark.parametrize("fold", [Count(), count], ids=["ready", "handler"])
async def test_sessions_that_become_one_after_a_restart_count_all_their_records(
    backend: StreamingBackend, fold: Any
) -> None:
    options: dict[str, Any] = {"emit": "final", "watermark_delay_ms": 10_000}
    for times in ([10, 11], [14, 15.5], [12.5, 13], [40]):
        await send(make(backend, fold, **options), times)  # type: ignore[arg-type]
    assert await results(make(backend, fold, **options)) == [(10, 17, 6)]


HEAD = struct.Struct("<qqBqq")
RECORD = struct.Struct("<16sqqqq")


@pytest.mark.parametrize("fold", [Count(), count], ids=["ready", "handler"])
async def test_sessions_that_were_stored_with_their_keys_others_are_read_and_get_rows(
    backend: StreamingBackend, fold: Any
) -> None:
    options: dict[str, Any] = {"emit": "final", "watermark_delay_ms": 10_000}
    await send(make(backend, fold, **options), [10, 14])
    (kept,) = await backend.broker.list_operators()
    records = await backend.broker.read("ticks", 0, offset=0, max_records=10)
    together = b""
    for record, at_ms in zip(records, (10_000, 14_000), strict=True):
        together += HEAD.pack(at_ms, at_ms, False, 1, -1 if isinstance(fold, Count) else 1) + b"1"
        if not isinstance(fold, Count):
            lengths = (len(record.raw_key or b""), -1, len(record.value))
            together += RECORD.pack(record.offset.to_bytes(16, "big"), record.timestamp_ms, *lengths)
            together += (record.raw_key or b"") + record.value
    rows = dict(await backend.broker.scan_entries(kept.cursor, ROWS, after=None, max_entries=10))
    session: Session = await backend.broker.open_session()
    consumer = None
    while consumer is None:
        consumer = await leased(session).acquire(Cursor("ticks", backend.group_name, "w", 0))
    assert consumer.lease is not None
    older = orjson.dumps({**orjson.loads(kept.progress), "version": 1})
    states: dict[int, dict[bytes, bytes | None]] = {TOGETHER: {b"=k": together}, ROWS: dict.fromkeys(rows)}
    commit = Commit(b"0" * 12, position=consumer.lease.position)
    await consumer.commit(with_windows(commit, 4_000, older, (), states))
    await consumer.release()
    await session.close()
    stream = make(backend, fold, **options)
    await send(stream, [12])
    rows = await rows_of(stream)
    assert {split_row_key(key)[0] for key in rows} == {"k"}
    again = make(backend, fold, **options)
    await send(again, [40])
    assert await results(again) == [(10, 16, 3)]

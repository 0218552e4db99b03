"""Records on their way to the partition of their grouping key, and the times that come with them."""

import random

import pytest

from pspf.errors import SchemaError
from pspf.records import NewRecord, Record, partition_of
from pspf.subscription import repartition_topic
from pspf.windowing.progress import HostProgress
from pspf.windowing.shuffle import SourceTimes, keys_of_partitions, mark, receive, send_on
from pspf.windowing.spans import BEGINNING


def arrive(sent: NewRecord, *, partition: int = 1, offset: int = 9) -> Record:
    return Record("g.h.repartition", partition, offset, sent.raw_key, sent.value, sent.raw_headers, 7_000)


@pytest.mark.parametrize("raw_key", [None, b"", "ключ".encode()])
@pytest.mark.parametrize("raw_headers", [None, b'{"a":"b"}', b"no JSON \xff", b'{"n": 1}'])
@pytest.mark.parametrize("key", ["red", "", None])
def test_a_record_arrives_as_it_was(raw_key: bytes | None, raw_headers: bytes | None, key: str | None) -> None:
    record = Record("orders", 3, 1 << 70, raw_key, b"\x00 any bytes", raw_headers, 7_000)
    arrival = receive(arrive(send_on(record, key, 5_000)), "orders")
    assert arrival.record == record
    assert (arrival.source, arrival.source_ms, arrival.key) == (("orders", 3), 5_000, key)


def test_a_key_that_is_not_utf_8_can_not_be_sent_on() -> None:
    with pytest.raises(SchemaError, match="UTF-8"):
        send_on(Record("orders", 0, 1, b"\xff", b"{}", None, 0), "red", 0)


def test_a_mark_tells_a_time_and_is_no_record() -> None:
    arrival = receive(arrive(mark(("orders", 2), -5_000, b"1")), "orders")
    assert (arrival.source, arrival.source_ms, arrival.record) == (("orders", 2), -5_000, None)


@pytest.mark.parametrize("raw_headers", [None, b"{}", b"nothing", b'{"pspf-source-partition":"x"}'])
def test_what_is_not_ours_says_where_to_emit_to(raw_headers: bytes | None) -> None:
    with pytest.raises(SchemaError):
        receive(Record("g.h.repartition", 0, 1, b"k", b"{}", raw_headers, 0), "orders")


@pytest.mark.parametrize("partitions", [2, 3, 16, 100])
def test_there_is_a_key_for_each_partition(partitions: int) -> None:
    keys = keys_of_partitions(partitions)
    assert [partition_of(key, partitions) for key in keys] == list(range(partitions))


def test_the_lowest_time_counts_once_all_sources_were_heard_of() -> None:
    times = SourceTimes(3, {})
    times.hear(("orders", 0), 500)
    times.hear(("orders", 1), 300)
    assert times.watermark_ms(10) == BEGINNING
    times.hear(("orders", 2), 400)
    assert times.watermark_ms(10) == 290
    times.hear(("orders", 1), 100)
    assert times.watermark_ms(10) == 290
    times.hear(("orders", 1), 900)
    assert times.watermark_ms(10) == 390


def test_the_lowest_time_is_that_of_a_plain_minimum() -> None:
    chosen = random.Random(3)
    times, heard = SourceTimes(4, {}), dict.fromkeys(range(4), BEGINNING)
    for _ in range(2_000):
        source, time_ms = chosen.randrange(4), chosen.randrange(1_000)
        times.hear(("orders", source), time_ms)
        heard[source] = max(heard[source], time_ms)
        lowest_ms = min(heard.values())
        assert times.watermark_ms(0) == lowest_ms
        assert times.copy().watermark_ms(0) == lowest_ms


def test_partitions_of_the_same_number_of_two_topics_are_two_sources() -> None:
    times = SourceTimes(2, {})
    times.hear(("orders", 0), 500)
    assert times.watermark_ms(0) == BEGINNING
    times.hear(("returns", 0), 300)
    assert times.watermark_ms(0) == 300


def test_what_an_older_version_sent_on_is_of_the_handlers_own_topic() -> None:
    headers = b'{"pspf-source-partition":"3","pspf-source-offset":"7","pspf-source-time-ms":"5000","a":"b"}'
    arrival = receive(Record("g.h.repartition", 0, 1, b"red", b"{}", headers, 7_000), "orders")
    assert arrival.source == ("orders", 3)
    assert arrival.record == Record("orders", 3, 7, None, b"{}", b'{"a":"b"}', 7_000)


def test_source_times_are_stored_by_topic_and_partition_and_read_as_older_versions_stored_them() -> None:
    progress = HostProgress(source_times={("orders", 0): 5, ("orders", 12): 6, ("returns", 0): 7})
    assert HostProgress.read(progress.as_json(), "orders") == progress
    older = {**progress.as_json(), "source_times": {"0": 5, "12": 6}}
    assert HostProgress.read(older, "orders").source_times == {("orders", 0): 5, ("orders", 12): 6}


def test_the_internal_topic_is_named_by_group_and_handler_and_told_apart() -> None:
    assert repartition_topic("g", "app.total") == "g.app.total.repartition"
    odd = [repartition_topic("g", name) for name in ("f.<locals>.h", "f.(locals).h", "x" * 300, "x" * 301)]
    assert len(set(odd)) == 4
    assert all(len(name) <= 200 and name.endswith(".repartition") for name in odd)

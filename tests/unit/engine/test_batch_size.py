"""How many records a batch takes."""

import pytest

from pspf.engine.batch_size import BatchSize
from pspf.records import Record

MOST_BYTES = 1_000_000


def adaptive() -> BatchSize:
    size = BatchSize(fixed=None, smallest=10, largest=1_000, target_ms=100, most_bytes=MOST_BYTES)
    size.weigh(records_of(100))
    return size


def records_of(*sizes: int) -> list[Record]:
    return [Record("numbers", 0, number, None, bytes(size), None, 0) for number, size in enumerate(sizes, 1)]


def test_a_fixed_size_stays() -> None:
    size = BatchSize(fixed=7, smallest=10, largest=1_000, target_ms=100, most_bytes=MOST_BYTES)
    size.learn(7, 5_000)
    assert size.records == 7
    assert not size.is_slow


def test_fast_handlers_get_larger_batches_up_to_the_largest() -> None:
    size = adaptive()
    sizes = []
    for _ in range(9):
        size.learn(size.records, 1)
        sizes.append(size.records)
    assert sizes == [20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000]


def test_slow_handlers_get_one_record_at_a_time() -> None:
    size = adaptive()
    for _ in range(5):
        size.learn(size.records, 60_000)
    assert size.records == 1
    assert size.is_slow


def test_a_batch_fits_the_time_between_commits() -> None:
    size = adaptive()
    for _ in range(20):
        size.learn(size.records, size.records * 2)  # 2 ms each
    assert size.records == 50


def test_an_empty_batch_teaches_nothing() -> None:
    size = adaptive()
    size.learn(0, 5_000)
    assert size.records == 10


@pytest.mark.parametrize("fixed", [None, 1_000])
def test_a_batch_of_large_records_has_fewer_of_them(fixed: int | None) -> None:
    size = BatchSize(fixed=fixed, smallest=1_000, largest=1_000, target_ms=100, most_bytes=MOST_BYTES)
    assert size.records == 100  # before the size of any is known
    size.weigh(records_of(100, 100))
    assert size.records == 1_000
    size.weigh(records_of(*[200_000] * 20))
    assert size.records == 5
    size.weigh(records_of(3 * MOST_BYTES))
    assert size.records == 1


def test_large_records_are_remembered_for_some_batches_of_small_ones() -> None:
    size = BatchSize(fixed=1_000, smallest=1, largest=1_000, target_ms=100, most_bytes=MOST_BYTES)
    size.weigh(records_of(500_000))
    size.weigh(records_of(100))
    assert size.records == 2
    for _ in range(100):
        size.weigh(records_of(100))
    assert size.records == 1_000

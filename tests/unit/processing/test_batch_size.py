"""How many records a batch takes."""

from pspf.processing.batch_size import BatchSize


def adaptive() -> BatchSize:
    return BatchSize(fixed=None, smallest=10, largest=1_000, target_ms=100)


def test_a_fixed_size_stays() -> None:
    size = BatchSize(fixed=7, smallest=10, largest=1_000, target_ms=100)
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

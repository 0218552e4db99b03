"""What becomes of a batch's records."""

from pspf.clock import ManualClock
from pspf.engine.batch_outcome import BatchRun
from pspf.engine.effect_budget import EffectBudget, EffectLimits
from pspf.engine.key_order import KeyOrder
from pspf.errors import text_of
from pspf.records import Batch, Record
from pspf.subscription import RetryPolicy, Subscription, inspect_handler

LIMITS = EffectLimits(operations=10, effect_bytes=1_000, record_operations=100, record_effect_bytes=5_000)


def records(*offsets: int, key: bytes | None = b"a") -> list[Record]:
    return [Record("t", 0, offset, key, b"{}", None, 0) for offset in offsets]


def make_run(batch: list[Record], *, held: KeyOrder | None = None, policy: RetryPolicy | None = None) -> BatchRun:
    async def handle(event): ...  # type: ignore[no-untyped-def]

    subscription = Subscription("t", "g", inspect_handler(handle), own_retry=policy or RetryPolicy(2, 100, 100, 0))
    return BatchRun(
        subscription, Batch(batch, batch[-1].offset + 1), held=held, state=None, clock=ManualClock(), limits=LIMITS
    )


def test_what_ran_and_did_not_fail_is_done() -> None:
    batch = records(1, 2, 3)
    run = make_run(batch)
    run.fail(batch[1], ValueError("no"))
    commit = run.as_commit(batch, [], whole=False)
    assert commit.done == [1, 3]
    assert [(retry.offset, retry.attempts, retry.due_ms, retry.error) for retry in commit.retries] == [
        (2, 1, ManualClock().now_ms() + 100, "ValueError: no")
    ]
    assert commit.position is None


def test_the_last_attempt_is_a_dead_letter_and_done() -> None:
    batch = [record._replace(attempts=1) for record in records(1)]
    run = make_run(batch)
    run.fail(batch[0], ValueError("no"))
    commit = run.as_commit(batch, [], whole=False)
    assert commit.done == [1]
    assert commit.retries == ()
    assert [(letter.attempts, letter.error_type, letter.error) for letter in commit.dead] == [(2, "ValueError", "no")]


def test_what_is_put_off_or_kept_is_not_charged() -> None:
    batch = records(1, 2, 3)
    run = make_run(batch)
    run.put_off(batch[0], 50, "busy")
    run.keep(batch[1])
    commit = run.as_commit(batch, [], whole=False)
    assert commit.done == [3]
    assert [(retry.offset, retry.attempts) for retry in commit.retries] == [(1, 0)]
    assert run.failures == []


def test_a_late_failure_is_told_with_another_batch() -> None:
    batch, late = records(5), records(2, 3)
    run = make_run(batch)
    run.fail_late(late[0], TimeoutError())
    run.fail_late(late[1]._replace(attempts=1), TimeoutError())
    commit = run.as_commit(batch, [], whole=False)
    assert commit.done == [5, 3]
    assert [retry.offset for retry in commit.retries] == [2]
    assert [letter.record.offset for letter in commit.dead] == [3]


def test_the_position_is_before_the_first_new_record_that_was_left() -> None:
    held = KeyOrder([], 5)
    batch = records(2, 5, 6, 7)  # 2 came again
    run = make_run(batch, held=held)
    commit = run.as_commit(batch[:2], batch[2:], whole=False)
    assert commit.position == 6
    assert held.position == 6


def test_the_position_is_the_batchs_end_where_only_old_records_are_left() -> None:
    held = KeyOrder([], 5)
    batch = records(2, 3)
    run = BatchRun(
        make_run(batch).subscription, Batch(batch, 5), held=held, state=None, clock=ManualClock(), limits=LIMITS
    )
    assert run.as_commit(batch[:1], batch[1:], whole=False).position == 5


def test_dead_letters_fill_a_batch_as_well() -> None:
    batch = [record._replace(value=b"x" * 400) for record in records(1, 2, 3)]
    run = make_run(batch, policy=RetryPolicy(1))
    run.fail(batch[0], ValueError())
    run.fail(batch[1], ValueError())
    assert not run.is_closed
    run.fail(batch[2], ValueError())
    assert run.is_closed


def test_a_budget_holds_a_batch_and_one_record_on_top() -> None:
    budget = EffectBudget(LIMITS)
    assert budget.take(9, 10)
    assert not budget.is_full
    assert budget.take(100, 10)
    assert budget.is_full
    assert not budget.take(2, 10)
    assert budget.take(1, 10)


def test_the_first_effects_always_fit() -> None:
    assert EffectBudget(LIMITS).take(1_000, 1_000_000)


def test_an_errors_text_is_one_that_any_store_holds() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError

    assert text_of(ValueError("\ud800")) == "\\ud800"
    assert text_of(Mute()) == "no message: its __str__ raised KeyError"
    assert len(text_of(ValueError("x" * 5_000))) == 1_000

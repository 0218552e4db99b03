"""Failures in the log: the first of a kind with the user's frames, the rest in a line."""

import pytest

from pspf.engine.batch_outcome import Failure
from pspf.engine.failure_log import FailureLog
from pspf.subscription import RetryPolicy, Subscription, inspect_handler
from tests.unit.engine.scripted import records


async def handle(event: object) -> None: ...


def failing(offset: int, *, kind: type[Exception] = ValueError, retry_ms: int | None = 1_500) -> Failure:
    def of_the_user() -> None:
        raise kind("no such\ncustomer")

    try:
        of_the_user()
    except kind as error:
        return Failure(records(offset)[0], error, 1, retry_ms, str(error))
    raise AssertionError


@pytest.fixture
def log() -> FailureLog:
    return FailureLog(Subscription("orders", "billing", inspect_handler(handle), own_retry=RetryPolicy(3)))


def test_the_first_failure_of_a_kind_shows_the_user_s_frames(log: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    log.tell([failing(1), failing(2), failing(3, kind=KeyError)], ())
    assert caplog.text.count("failed here:") == 2
    assert caplog.text.count("in of_the_user") == 2
    assert "pspf/engine" not in caplog.text.replace("pspf/engine/failure_log", "")


def test_each_failure_has_a_line_with_its_next_try(log: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    log.tell([failing(1), failing(2)], ())
    assert caplog.text.count("attempt 1/3 failed, next in 1.5 s: ValueError: no such\\ncustomer") == 2


def test_a_dead_letter_s_line_says_where_to_look(log: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    log.tell([failing(1, retry_ms=None)], ())
    assert "dead after attempt 1/3: ValueError" in caplog.text
    assert "see: pspf dlq inspect orders/1" in caplog.text


def test_a_record_that_was_another_worker_s_is_not_told(log: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    log.tell([failing(1)], {1})
    assert caplog.text == ""

"""Calls of a broker that is away: again until it is there, with one line at the beginning and one at the end."""

import asyncio

import pytest

from pspf.backoff import Outage
from pspf.engine.broker_retry import BrokerRetry
from pspf.errors import BackendUnavailable, CommitFenced
from tests.unit.engine.scripted import CURSOR, let_run


class Calls:
    """A call that fails so often, then returns its number."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or BackendUnavailable("away")
        self.count = 0

    async def __call__(self) -> int:
        self.count += 1
        if self.count <= self.failures:
            raise self.error
        return self.count


async def test_a_call_is_made_again_until_the_broker_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    retry = BrokerRetry(CURSOR, lambda: False)
    assert await retry("read", Calls(2)) == 3
    assert not retry.is_failing
    assert caplog.text.count("can't read, will try again: away") == 1
    assert caplog.text.count("the broker is back, can read again") == 1


async def test_a_call_that_works_at_once_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert await BrokerRetry(CURSOR, lambda: False)("read", Calls(0)) == 1
    assert caplog.text == ""


async def test_an_error_that_waiting_does_not_mend_is_raised() -> None:
    calls = Calls(1, CommitFenced("another has it"))
    with pytest.raises(CommitFenced):
        await BrokerRetry(CURSOR, lambda: False)("commit", calls)
    assert calls.count == 1


async def test_a_cursor_whose_broker_is_away_says_so_meanwhile() -> None:
    retry, calls = BrokerRetry(CURSOR, lambda: False), Calls(1_000)
    asking = asyncio.create_task(retry("read", calls))
    await let_run()
    assert retry.is_failing
    asking.cancel()
    await asyncio.wait([asking])


async def test_an_abandoned_cursor_ends_as_if_it_was_cancelled() -> None:
    calls = Calls(1_000)
    with pytest.raises(asyncio.CancelledError):
        await BrokerRetry(CURSOR, lambda: calls.count >= 2)("read", calls)
    assert calls.count == 2


async def test_cursors_of_a_process_say_once_that_the_broker_is_away(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    retries = [BrokerRetry(CURSOR, lambda: False, outage) for _ in range(3)]
    await asyncio.gather(*(retry("read", Calls(1)) for retry in retries))
    assert caplog.text.count("will try again") == 1

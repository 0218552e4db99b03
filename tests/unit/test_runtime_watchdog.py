"""What counts as a stall, and what does not."""

import asyncio
import logging
import time

import pytest

from pspf import Stream
from pspf.connectors.memory import MemoryBackend
from pspf.engine.broker_retry import BrokerRetry
from pspf.errors import BackendUnavailable
from pspf.observability.worker_status import OVERDUE, BatchStatus
from pspf.records import Cursor
from pspf.runtime.status.reports import Pulse
from pspf.runtime.supervision.watchdog import find_trouble
from pspf.runtime.worker.monitor import Monitor

STALL_MS = 30_000


def pulse(*, loop_silent_ms: int | None = 100, unanswered_ms: int = 0, busy: tuple[BatchStatus, ...] = ()) -> Pulse:
    return Pulse("running", loop_silent_ms, unanswered_ms, is_connected=True, is_at_work=True, session="s", busy=busy)


def trouble(of: Pulse, *, pulse_age_ms: int = 500, broker_answers_ms: int = 1_000_000) -> str | None:
    return find_trouble(of, pulse_age_ms=pulse_age_ms, broker_answers_ms=broker_answers_ms, stall_ms=STALL_MS)


def test_a_loop_that_turns_is_no_trouble() -> None:
    assert trouble(pulse()) is None


def test_a_handler_that_takes_for_ever_is_no_trouble() -> None:
    assert trouble(pulse(busy=(BatchStatus("orders", "g", "h", 0, 1, for_ms=10 * 60_000),))) is None


@pytest.mark.parametrize(("silent_ms", "age_ms"), [(30_500, 500), (100, 31_000)], ids=["blocked", "stopped"])
def test_a_silent_loop_is_trouble(silent_ms: int, age_ms: int) -> None:
    assert trouble(pulse(loop_silent_ms=silent_ms), pulse_age_ms=age_ms) is not None


def test_the_second_between_two_pulses_is_no_silence() -> None:
    assert find_trouble(pulse(loop_silent_ms=500), pulse_age_ms=1_400, broker_answers_ms=0, stall_ms=1_000) is None


def test_a_process_without_a_loop_yet_may_take_its_time() -> None:
    assert trouble(pulse(loop_silent_ms=None), pulse_age_ms=10**6) is None


def test_an_idle_read_is_no_trouble() -> None:
    assert trouble(pulse(unanswered_ms=34_000)) is None


def test_a_broker_that_answers_others_but_not_this_process_is_trouble() -> None:
    assert "has not answered it" in (trouble(pulse(unanswered_ms=36_000)) or "")


def test_a_broker_that_is_down_for_all_is_waited_for() -> None:
    assert trouble(pulse(unanswered_ms=600_000), broker_answers_ms=0) is None


def test_a_broker_that_is_just_back_gets_time_to_answer() -> None:
    assert trouble(pulse(unanswered_ms=600_000), broker_answers_ms=20_000) is None


@pytest.mark.parametrize(("for_ms", "is_trouble"), [(29_000, False), (31_000, True)])
def test_a_call_that_goes_on_after_its_time_is_trouble_at_last(for_ms: int, is_trouble: bool) -> None:
    busy = BatchStatus("orders", "g", "h", 0, 1, for_ms=for_ms, state=OVERDUE)
    assert (trouble(pulse(busy=(busy,))) is not None) == is_trouble


async def test_while_its_event_loop_is_blocked_a_process_waits_for_no_answer() -> None:
    stream = Stream(MemoryBackend(), topic="orders", group="g")
    monitor = Monitor(stream, lambda: "running", lambda _: True)
    activity = stream.telemetry.enter("orders", "g", "h", 0)
    monitor.begin()
    monitor.connected()
    activity.reading_since_ms = time.monotonic_ns() // 1_000_000 - 60_000
    assert monitor.take_pulse().unanswered_ms < 1_000  # it listens since it has begun
    time.sleep(2.1)  # noqa: ASYNC251 (what a handler should not do)
    assert monitor.take_pulse().unanswered_ms == 0
    await asyncio.sleep(0.05)
    assert monitor.take_pulse().unanswered_ms < 1_000
    await asyncio.sleep(0.3)
    assert monitor.take_pulse().unanswered_ms >= 250


async def test_a_broker_that_is_back_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([BackendUnavailable("gone"), BackendUnavailable("gone"), None, None])

    async def read() -> int:
        error = next(answers)
        if error is not None:
            raise error
        return 7

    insist = BrokerRetry(Cursor("orders", "g", None, 0), lambda: False)
    with caplog.at_level(logging.INFO, "pspf"):
        assert [await insist("read", read), await insist("read", read)] == [7, 7]
    assert [record.message for record in caplog.records] == [
        "orders:0 of g: can't read, will try again: gone",
        "orders:0 of g: the broker is back, can read again",
    ]

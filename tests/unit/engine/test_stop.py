"""Signals to end, and waits that grow."""

from pspf.backoff import Backoff
from pspf.engine.stop import Stop


async def test_a_stop_calls_back_once_and_stays_set() -> None:
    stop, calls = Stop(), list[int]()
    stop.add(lambda: calls.append(1))
    stop.set()
    stop.set()
    stop.add(lambda: calls.append(2))
    assert stop.is_set
    assert calls == [1, 2]
    assert await stop.wait(0)


async def test_a_removed_callback_is_not_called() -> None:
    stop, calls = Stop(), list[int]()

    def call() -> None:
        calls.append(1)

    stop.add(call)
    stop.remove(call)
    stop.set()
    assert calls == []


async def test_a_child_is_set_with_its_parent_and_not_the_other_way() -> None:
    parent = Stop()
    child, detached = Stop(parent), Stop(parent)
    child.set()
    assert not parent.is_set
    other = Stop(parent)
    detached.detach()
    parent.set()
    assert other.is_set
    assert not detached.is_set
    assert Stop(parent).is_set


async def test_waiting_for_a_stop_has_an_end() -> None:
    assert not await Stop().wait(1)


def test_waits_double_up_to_their_most_and_start_over_after_a_success() -> None:
    backoff = Backoff(initial_ms=100, max_ms=1_000)
    assert backoff.is_first
    waits = [backoff.next_ms() for _ in range(6)]
    assert not backoff.is_first
    for wait_ms, middle_ms in zip(waits, [100, 200, 400, 800, 1_000, 1_000], strict=True):
        assert 0.8 * middle_ms <= wait_ms <= 1.2 * middle_ms
    backoff.reset()
    assert backoff.is_first
    assert backoff.next_ms() <= 120

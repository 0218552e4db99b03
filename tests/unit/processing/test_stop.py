"""Signals to end, waits that grow, and the gate that lets one run alone."""

import asyncio

import pytest

from pspf.processing.stop import Backoff, SoloGate, Stop


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


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


class Gate:
    """A gate and those who pass it: `inside` says who is in at the moment."""

    def __init__(self) -> None:
        self.gate = SoloGate()
        self.inside: list[str] = []
        self.exits: dict[str, asyncio.Event] = {}

    def enter(self, name: str) -> "asyncio.Task[None]":
        self.exits[name] = asyncio.Event()
        return asyncio.create_task(self._pass(name))

    async def _pass(self, name: str) -> None:
        async with self.gate.alone() if name.startswith("alone") else self.gate.together():
            self.inside.append(name)
            await self.exits[name].wait()
            self.inside.remove(name)


async def test_batches_run_together() -> None:
    gate = Gate()
    tasks = [gate.enter("a"), gate.enter("b")]
    await turns()
    assert gate.inside == ["a", "b"]
    for event in gate.exits.values():
        event.set()
    await asyncio.gather(*tasks)


async def test_who_wants_to_be_alone_waits_for_all_and_keeps_later_ones_out() -> None:
    gate = Gate()
    tasks = [gate.enter("a"), gate.enter("b")]
    await turns()
    tasks += [gate.enter("alone"), gate.enter("c")]
    await turns()
    assert gate.inside == ["a", "b"]
    gate.exits["a"].set()
    await turns()
    assert gate.inside == ["b"]
    gate.exits["b"].set()
    await turns()
    assert gate.inside == ["alone"]
    gate.exits["alone"].set()
    await turns()
    assert gate.inside == ["c"]
    gate.exits["c"].set()
    await asyncio.gather(*tasks)


async def test_two_are_alone_one_after_the_other() -> None:
    gate = Gate()
    tasks = [gate.enter("alone 1"), gate.enter("alone 2"), gate.enter("a")]
    await turns()
    assert gate.inside == ["alone 1"]
    gate.exits["alone 1"].set()
    await turns()
    assert gate.inside == ["alone 2"]
    gate.exits["alone 2"].set()
    await turns()
    assert gate.inside == ["a"]
    gate.exits["a"].set()
    await asyncio.gather(*tasks)


async def test_one_who_gives_up_waiting_to_be_alone_lets_the_others_go_on() -> None:
    gate = Gate()
    first = gate.enter("a")
    await turns()
    waiting, later = gate.enter("alone"), gate.enter("b")
    await turns()
    waiting.cancel()
    await turns()
    assert gate.inside == ["a", "b"]
    for event in gate.exits.values():
        event.set()
    await asyncio.gather(first, later)


@pytest.mark.parametrize("name", ["a", "alone"])
async def test_one_that_is_cancelled_inside_leaves(name: str) -> None:
    gate = Gate()
    inside = gate.enter(name)
    await turns()
    later = [gate.enter("alone 2"), gate.enter("b")]
    await turns()
    inside.cancel()
    await turns()
    assert gate.inside[-1] == "alone 2"
    for event in gate.exits.values():
        event.set()
    await asyncio.gather(*later)


def test_a_gate_belongs_to_no_event_loop() -> None:
    gate = SoloGate()

    async def use() -> None:
        async def one_alone() -> None:
            async with gate.alone():
                await turns()

        async def beside() -> None:
            async with gate.together():
                await turns()

        await asyncio.gather(one_alone(), beside(), one_alone())

    for _ in range(2):
        asyncio.run(use())

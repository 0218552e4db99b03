"""The gate that lets one batch run alone, as far as that is to be had."""

import asyncio

import pytest

from pspf.engine.solo_gate import SoloGate
from tests.integration.running import until


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


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


def quick_gate(**options: float) -> Gate:
    """Return a gate whose times are short; what is not given is long."""
    gate = Gate()
    gate.gate = SoloGate(**{"hold_s": 30, "rest_s": 30, "wait_s": 30, "alone_s": 30, **options})
    return gate


async def leave(gate: Gate, *tasks: "asyncio.Task[None]") -> None:
    for event in gate.exits.values():
        event.set()
    await asyncio.gather(*tasks)


async def test_the_others_go_on_while_one_waits_for_a_call_that_hangs() -> None:
    gate = quick_gate(hold_s=0.02)
    tasks = [gate.enter("hung")]
    await turns()
    tasks += [gate.enter("alone"), gate.enter("a")]
    await until(lambda: gate.inside == ["hung", "a"])
    tasks.append(gate.enter("b"))
    await turns()
    assert gate.inside == ["hung", "a", "b"]
    await leave(gate, *tasks)


async def test_the_others_are_held_again_after_their_rest() -> None:
    gate = quick_gate(hold_s=0.02, rest_s=0.05)
    tasks = [gate.enter("hung")]
    await turns()
    tasks += [gate.enter("alone"), gate.enter("a")]
    await until(lambda: "a" in gate.inside)
    await until(lambda: gate.gate._is_closed)
    tasks.append(gate.enter("b"))
    await turns()
    assert "b" not in gate.inside
    await leave(gate, *tasks)


async def test_one_that_waits_to_be_alone_runs_at_once_where_the_others_end_meanwhile() -> None:
    gate = quick_gate(hold_s=0.01)
    tasks = [gate.enter("slow")]
    await turns()
    tasks += [gate.enter("alone"), gate.enter("a")]
    await until(lambda: gate.inside == ["slow", "a"])
    gate.exits["slow"].set()
    gate.exits["a"].set()
    await until(lambda: gate.inside == ["alone"])
    await leave(gate, *tasks)


async def test_the_wait_for_being_alone_has_an_end() -> None:
    told: list[str] = []
    gate = SoloGate(hold_s=0.01, rest_s=30, wait_s=0.05, alone_s=30)
    async with gate.together(), asyncio.timeout(5), gate.alone(told.append):
        pass
    assert [text.split()[0] for text in told] == ["waits", "runs"]


async def test_the_others_join_one_that_is_alone_for_long() -> None:
    gate = quick_gate(alone_s=0.02)
    tasks = [gate.enter("alone"), gate.enter("a")]
    await until(lambda: gate.inside == ["alone", "a"])
    tasks.append(gate.enter("alone 2"))
    await turns()
    assert gate.inside == ["alone", "a"]
    await leave(gate, *tasks)


async def test_after_one_was_alone_the_others_have_as_long_for_themselves() -> None:
    gate = quick_gate(hold_s=0.01)
    tasks = [gate.enter("alone"), gate.enter("alone 2"), gate.enter("a")]
    await turns()
    await asyncio.sleep(0.03)  # for longer than a hold
    gate.exits["alone"].set()
    await until(lambda: gate.inside == ["a"])
    gate.exits["a"].set()
    await until(lambda: gate.inside == ["alone 2"])
    await leave(gate, *tasks)


async def test_who_is_alone_is_told_so_and_who_runs_beside_others_is_told_that() -> None:
    gate = SoloGate(hold_s=0.01, rest_s=30, wait_s=0.03, alone_s=30)
    async with gate.alone() as is_alone:
        assert is_alone
    async with gate.together(), asyncio.timeout(5), gate.alone() as is_alone:
        assert not is_alone


async def test_the_others_join_one_that_is_alone_only_when_it_was_told() -> None:
    gate = SoloGate(alone_s=0.01)
    is_told, goes_on = asyncio.Event(), asyncio.Event()
    joined = asyncio.Event()

    async def tell() -> None:
        is_told.set()
        await goes_on.wait()

    async def join() -> None:
        async with gate.together():
            joined.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks, gate.alone(before_others=tell):
        tasks.create_task(join())
        await is_told.wait()
        await turns()
        assert not joined.is_set()
        goes_on.set()
        await joined.wait()


async def test_nobody_joins_one_that_is_alone_while_nobody_waits_to() -> None:
    told: list[str] = []
    gate = SoloGate(alone_s=0.01)

    async def tell() -> None:
        told.append("others")

    async def join() -> None:
        async with gate.together():
            assert told == ["others"]

    async with asyncio.timeout(5), gate.alone(before_others=tell):
        await asyncio.sleep(0.03)  # for longer than it is alone at least
        assert told == []
        await join()


async def test_of_two_that_want_to_be_alone_the_first_is_drawn_by_lot() -> None:
    firsts: set[str] = set()

    async def enter(gate: SoloGate, name: str, order: list[str]) -> None:
        async with gate.alone():
            order.append(name)

    async with asyncio.timeout(10):
        while len(firsts) < 2:
            order: list[str] = []
            gate = SoloGate(chance_s=0.01)
            await asyncio.gather(enter(gate, "one", order), enter(gate, "other", order))
            firsts.add(order[0])

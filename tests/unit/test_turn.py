"""A lock that tasks of several event loops share."""

import asyncio
import threading

from pspf.concurrency.turn import Turn


async def test_one_task_at_a_time_and_first_come_first_served() -> None:
    turn, order = Turn(), list[int]()

    async def take(number: int) -> None:
        async with turn:
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*[take(number) for number in range(5)])
    assert order == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_a_task_that_is_cancelled_while_it_waits_takes_nothing_with_it() -> None:
    turn = Turn()
    await turn.__aenter__()
    waiting = [asyncio.create_task(turn.__aenter__()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await turn.__aexit__()
    await waiting[1]
    assert waiting[0].cancelled()


async def test_a_turn_that_is_given_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    turn = Turn()
    await turn.__aenter__()
    waiting = [asyncio.create_task(turn.__aenter__()) for _ in range(2)]
    await asyncio.sleep(0)
    await turn.__aexit__()
    waiting[0].cancel()
    await waiting[1]
    assert waiting[0].cancelled()


def test_tasks_of_many_event_loops_never_hold_it_together() -> None:
    turn, held, most = Turn(), list[int](), list[int]()

    async def take(number: int) -> None:
        for _ in range(20):
            async with turn:
                held.append(number)
                most.append(len(held))
                await asyncio.sleep(0)
                held.remove(number)

    threads = [threading.Thread(target=asyncio.run, args=(take(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 120

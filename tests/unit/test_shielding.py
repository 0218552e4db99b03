"""Work that goes on where its caller is cancelled, and cancellations that work can't lose."""

import asyncio
import gc

import pytest

from pspf.concurrency.shielding import apart, shielded


async def test_work_goes_on_where_its_caller_is_cancelled_and_its_failure_is_no_traceback_of_the_event_loop() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    go_on, has_ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        has_ended.set()
        raise RuntimeError("the file is gone")

    caller = asyncio.create_task(shielded(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    del caller
    go_on.set()
    await has_ended.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert told == []


async def test_what_fails_while_its_caller_waits_is_raised() -> None:
    async def work() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await shielded(work())


async def test_what_work_comes_to_is_returned() -> None:
    async def work() -> int:
        return 7

    assert await shielded(work()) == 7


async def test_a_cancellation_that_work_loses_is_not_lost_for_its_caller() -> None:
    begun = asyncio.Event()

    async def loses_one() -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()
        return 7

    caller = asyncio.create_task(apart(loses_one()))
    await begun.wait()
    caller.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([caller])
    assert caller.cancelled()


async def test_a_time_out_that_comes_as_work_is_done_counts() -> None:
    async def done_at_once() -> int:
        return 7

    async def timed() -> None:
        async with asyncio.timeout(5) as limit:
            limit.reschedule(asyncio.get_running_loop().time())
            await apart(asyncio.wait_for(done_at_once(), 5))

    with pytest.raises(TimeoutError):
        await timed()


async def test_what_work_apart_fails_of_is_raised() -> None:
    async def work() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await apart(work())

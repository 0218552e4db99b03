"""Results that can't be made: tried again, told apart from records, and counted apart from them."""

from pspf import Count, RetryPolicy, Stream, TumblingWindow
from pspf.connectors.contract.backend import StreamingBackend
from pspf.windowing.definitions import WindowResult
from tests.integration.running import read_events, read_letters, run_until_drained


async def run(backend: StreamingBackend, failures: int) -> tuple[Stream, list[int]]:
    runs: list[int] = []

    def show(result: WindowResult) -> dict[str, int]:
        runs.append(1)
        if len(runs) <= failures:
            raise RuntimeError("not now")
        return {"n": result.value}

    stream = Stream(backend)
    retry = RetryPolicy(max_attempts=3)
    stream.window("in", TumblingWindow(10_000), emit="final", to="out", name="w", result=show, retry=retry)(Count())
    await stream.emit_many([{"timestamp": at, "key": "a"} for at in (1, 2, 12)], "in")
    await run_until_drained(stream)
    return stream, runs


async def test_a_result_that_can_not_be_made_at_first_is_made_again(backend: StreamingBackend) -> None:
    stream, runs = await run(backend, 2)
    assert len(runs) == 3
    assert [each["n"] for each in await read_events(stream.broker, "out")] == [2]
    assert await read_letters(stream.broker) == []


async def test_a_result_that_is_given_up_is_a_letter_that_is_no_record_and_takes_none_from_what_was_handled(
    backend: StreamingBackend,
) -> None:
    stream, runs = await run(backend, 9)
    assert len(runs) == 3
    (letter,) = await read_letters(stream.broker)
    assert (letter.is_result, letter.attempts) == (True, 3)
    (counted,) = stream.telemetry.snapshot()
    assert (counted.processed, counted.dead) == (3, 1)

"""The finished steps of records that are not done, as `pspf pending list` shows them."""

import pytest

from pspf import Context, RetryPolicy, Stream
from pspf.cli.services.pending import PendingFilter, as_json_record, print_records, read_steps, select
from pspf.connectors.contract.backend import StreamingBackend
from tests.integration.running import GROUP, TOPIC, Number, numbers, running, wait_until


async def test_the_steps_that_have_finished_are_shown_with_their_record(
    backend: StreamingBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(backend)

    @stream.subscribe(TOPIC, ordering="key", name="steps", retry=RetryPolicy(5, 60_000, 60_000))
    async def handle(event: Number, ctx: Context) -> None:
        if event.n:
            await ctx.step("charge", lambda: 1)
            await ctx.step("reserve", lambda: 1)
        raise ValueError("later")

    await stream.emit_many(numbers(2, keys="ab"))
    broker = backend.broker
    async with running(stream):

        async def both_wait() -> bool:
            return len(await broker.operations.list_pending(GROUP, topic=TOPIC)) == 2

        await wait_until(both_wait)
        records = sorted(await select(broker, PendingFilter(GROUP)), key=lambda record: record.key or b"")
        steps = await read_steps(broker, records)
    shown = [as_json_record(each, steps.get((each.cursor, each.offset), ())).get("steps") for each in records]
    assert shown == [None, ["charge", "reserve"]]
    print_records(records, steps)
    written = capsys.readouterr().out
    assert "STEPS DONE" in written
    assert "charge" in written
    print_records(records)
    assert "STEPS DONE" not in capsys.readouterr().out

"""Dead letters of one record in several groups: which of them a command means."""

import pytest

from pspf import RetryPolicy, Stream
from pspf.cli.exit_codes import UsageError
from pspf.cli.services.dead_letters import LetterFilter, select_one
from pspf.connectors.contract.backend import StreamingBackend
from tests.integration.running import TOPIC, numbers, run_until_drained


async def test_a_record_that_several_handlers_gave_up_is_refused_with_an_id_that_is_one(
    backend: StreamingBackend,
) -> None:
    stream = Stream(backend)

    async def fail(number: dict[str, int]) -> None:
        raise ValueError("not wanted")

    for group in ("first", "second"):
        stream.subscribe(TOPIC, group=group, name=group, retry=RetryPolicy(max_attempts=1))(fail)
    async with stream:
        (record_id,) = await stream.emit_many(numbers(1), TOPIC)
        await run_until_drained(stream)
        with pytest.raises(UsageError) as refused:
            await select_one(stream.broker, LetterFilter(None, ids=(f"{TOPIC}/{record_id}",)))
        said = str(refused.value)
        assert f"of {TOPIC} in first" in said
        assert f"of {TOPIC} in second" in said
        own_id, topic = said.rpartition("pspf dlq inspect ")[2].split(" --topic ")
        found = await select_one(stream.broker, LetterFilter(topic, ids=(own_id,)))
        assert (found.record.id, found.topic, found.original_id) == (own_id, TOPIC, record_id)

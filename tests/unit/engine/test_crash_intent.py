"""The intent of a suspect batch: it is noted before it runs, and changed while others run beside it."""

from typing import Any

import pytest

from pspf.engine.broker_retry import BrokerRetry
from pspf.engine.crash_intent import Intent
from pspf.errors import CommitFenced
from tests.unit.engine.scripted import CURSOR, ScriptedConsumer, records


@pytest.fixture
def consumer() -> ScriptedConsumer:
    return ScriptedConsumer()


@pytest.fixture
def intent(consumer: ScriptedConsumer) -> Intent:
    fake: Any = consumer
    return Intent(fake, BrokerRetry(CURSOR, lambda: False))


async def test_a_record_that_runs_alone_is_noted_so(consumer: ScriptedConsumer, intent: Intent) -> None:
    await intent.note(records(7))
    assert consumer.intents == [([7], True)]


async def test_others_that_join_are_noted_with_the_records_that_run(consumer: ScriptedConsumer, intent: Intent) -> None:
    await intent.note(records(7, 8))
    await intent.note_others()
    assert consumer.intents == [([7, 8], True), ([7, 8], False)]
    assert not intent.is_alone


async def test_others_that_were_there_before_are_noted_from_the_beginning(
    consumer: ScriptedConsumer, intent: Intent
) -> None:
    await intent.note_others()
    await intent.note(records(7))
    assert consumer.intents == [([7], False)]


async def test_what_is_to_be_committed_is_not_noted_again(consumer: ScriptedConsumer, intent: Intent) -> None:
    await intent.note(records(7))
    await intent.settle()
    await intent.note_others()
    assert consumer.intents == [([7], True)]


async def test_a_cursor_that_was_lost_is_told_by_its_commit_and_not_by_those_who_join(
    consumer: ScriptedConsumer, intent: Intent
) -> None:
    await intent.note(records(7))
    consumer.failures.append(CommitFenced("another has it"))
    await intent.note_others()
    consumer.failures.append(CommitFenced("another has it"))
    with pytest.raises(CommitFenced):
        await intent.note(records(8))

"""Cursors that the app's group has and the app lacks: what refuses a start, and what doesn't."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from pspf import Context, Count, MemoryBackend, Stream, TumblingWindow
from pspf.errors import OrphanedCursors
from tests.integration.running import GROUP, TOPIC, Number, numbers, run_until_drained


def app(backend: Any, name: str = "before", **options: Any) -> Stream:
    """Return an app of one handler."""
    stream = Stream(backend, group=GROUP)

    async def take(number: Number) -> None:
        pass

    stream.subscribe(TOPIC, name=name, **{"ordering": "key", **options})(take)
    return stream


@pytest.fixture
async def backend() -> Any:
    """A broker on which the ordered handler `before` has done three records."""
    made = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    first = app(made)
    async with first:
        await first.emit_many(numbers(3))
        await run_until_drained(first)
    return made


async def refusal(stream: Stream) -> str:
    """Return why a stream does not start."""
    with pytest.raises(OrphanedCursors) as refused:
        await asyncio.wait_for(stream.run_forever(), 5)
    return str(refused.value)


async def test_a_renamed_handler_is_not_started(backend: Any) -> None:
    said = await refusal(app(backend, "after"))
    assert "would do 3 records that it has done again" in said
    assert f"pspf groups rename-handler {GROUP} before after --topic {TOPIC} --execute" in said
    assert "name='before'" in said
    assert "--accept-orphans" in said
    assert len(said.splitlines()) <= 6
    assert [info.cursor.handler for info in await backend.broker.list_cursors()] == ["before"]


async def test_one_record_is_told_in_the_singular() -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    async with app(backend) as first:
        await first.emit_many(numbers(1))
        await run_until_drained(first)
    assert "would do 1 record that it has done again" in await refusal(app(backend, "after"))


async def test_a_renamed_window_is_not_started(backend: Any) -> None:
    stream = Stream(backend, group=GROUP)
    stream.window(TOPIC, TumblingWindow(1_000), emit="final", to="counts")(Count())
    assert f"rename-handler {GROUP} before {TOPIC}.tumbling-1s.count" in await refusal(stream)


async def test_an_ordered_handler_that_became_a_shared_one_is_not_started(backend: Any) -> None:
    said = await refusal(app(backend, ordering="none"))
    assert 'ordering="key" changed to "none"' in said
    assert "rename-handler" not in said


async def test_an_ordering_that_changed_beside_another_handler_is_said_as_such(backend: Any) -> None:
    both = app(backend)
    both.subscriptions.extend(app(backend, "other").subscriptions)
    await run_until_drained(both)
    changed = app(backend, ordering="none")
    changed.subscriptions.extend(app(backend, "other").subscriptions)
    said = await refusal(changed)
    assert 'ordering="key" changed to "none"' in said
    assert "rename-handler" not in said


async def test_no_handler_that_has_got_on_by_itself_is_taken_for_a_renamed_one(backend: Any) -> None:
    both = app(backend)
    both.subscriptions.extend(app(backend, "other").subscriptions)
    await run_until_drained(both)
    said = await refusal(app(backend, "other"))
    assert "the cursor of handler 'before'" in said
    assert "rename-handler" not in said
    assert f"pspf groups delete {GROUP} --topic {TOPIC} --handler before --execute" in said
    two = app(backend, "other")
    two.subscriptions.extend(app(backend, "after").subscriptions)
    assert f"rename-handler {GROUP} before after --topic {TOPIC}" in await refusal(two)


async def test_a_shared_handler_that_became_an_ordered_one_is_not_started() -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    shared = app(backend, ordering="none")
    async with shared:
        await shared.emit_many(numbers(3))
        await run_until_drained(shared)
    said = await refusal(app(backend))
    assert "the shared cursor" in said
    assert "--handler ''" in said


async def test_a_handler_that_was_taken_out_beside_others_refuses_the_start(backend: Any) -> None:
    both = app(backend, "other")
    both.subscriptions.extend(app(backend).subscriptions)
    await run_until_drained(both)
    assert "handler 'other'" in await refusal(app(backend))


async def test_accepted_orphans_are_told_of_and_left(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    renamed = app(backend, "after")
    renamed.accepts_orphans = True
    with caplog.at_level(logging.WARNING, "pspf"):
        await run_until_drained(renamed)
    assert [record.getMessage() for record in caplog.records] == [
        f"group {GROUP} has the cursor of handler 'before' on {TOPIC}, which the app lacks; it is left as it is"
    ]
    lags = {info.cursor.handler: info.lag for info in await backend.broker.list_cursors()}
    assert lags == {"before": 0, "after": 0}


async def test_a_cursor_that_never_moved_refuses_nothing() -> None:
    backend = MemoryBackend(stream_key=TOPIC, group_name=GROUP)
    async with Stream(backend) as emitter:  # makes the group
        await emitter.emit_many(numbers(3))
    await run_until_drained(app(backend))


async def test_cursors_of_other_topics_and_groups_refuse_nothing(backend: Any) -> None:
    elsewhere = Stream(backend, group=GROUP)

    @elsewhere.subscribe("others", ordering="key")
    async def take(number: Number, ctx: Context) -> None:
        pass

    await elsewhere.emit_many(numbers(1), "others")
    await run_until_drained(elsewhere)
    other_group = app(backend, "after")
    other_group.subscriptions[:] = app(
        MemoryBackend(stream_key=TOPIC, group_name="theirs"), "after", group="theirs"
    ).subscriptions
    await run_until_drained(other_group)


async def test_a_handler_that_goes_back_to_its_name_goes_on(backend: Any, tmp_path: Path) -> None:
    await refusal(app(backend, "after"))
    await run_until_drained(app(backend))
    assert [info.lag for info in await backend.broker.list_cursors()] == [0]

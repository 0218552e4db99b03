"""Many records of one key held back behind one that fails."""

from pathlib import Path

import pytest

from pspf import Context, RetryPolicy, Stream
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.engine.tuning import Tuning
from tests.integration.running import GROUP, TOPIC, Number, running, until, wait_until
from tests.support.brokers import Kind

COUNT = 4_500
"""More than a server is asked for at once, of one commit, and so of one millisecond: their ids sort otherwise as text.
"""


async def test_the_first_record_of_a_key_is_given_however_many_are_due_behind_it(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuning, "from_settings", lambda settings: Tuning(max_held_back=10 * COUNT))
    backend = StreamingBackend(kind.make(tmp_path, Limits(synchronous="NORMAL"), None), TOPIC, GROUP)
    stream = Stream(backend)
    seen: list[int] = []
    failing = True

    @stream.subscribe(TOPIC, ordering="key", name="handle", retry=RetryPolicy(max_attempts=1_000, initial_ms=100))
    async def handle(event: Number) -> None:
        if failing:
            raise ValueError("not yet")
        seen.append(event.n)

    @stream.subscribe("source", group="writers", name="write")
    async def write(event: Number, ctx: Context) -> None:
        for n in range(event.n):
            ctx.emit({"n": n}, topic=TOPIC, key="a")

    async with running(stream):
        await stream.emit({"n": COUNT}, topic="source")

        async def all_are_held_back() -> bool:
            infos = await backend.broker.list_cursors()
            return sum(info.held_back for info in infos if info.cursor.topic == TOPIC) == COUNT - 1

        await wait_until(all_are_held_back, within_ms=60_000)
        failing = False
        await until(lambda: len(seen) == COUNT, within_ms=60_000)
    assert seen == list(range(COUNT))

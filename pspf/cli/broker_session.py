"""Connection of one command to a broker: opened within 5 s, closed at the end, with errors for people."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

from pspf.cli.console import say
from pspf.cli.exit_codes import Interrupted, UsageError
from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import TopicInfo
from pspf.connectors.urls import make_broker
from pspf.errors import BackendUnavailable, NotFound

Result = TypeVar("Result")

GIVE_UP_S: Final = 5.0
_TO_SAY_WHY_MS: Final = 500


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine to its end.

    Raises:
        Interrupted: Ctrl-C; the coroutine was cancelled and has cleaned up.
    """
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise Interrupted from None


@asynccontextmanager
async def open_broker(url: str | None, *, makes: bool = False, names: bool = True) -> AsyncIterator[Broker]:
    """Open the broker for one command and close it afterwards; say which one it is, unless the command does.

    Only what stores something `makes` a file that is not there: for who looks, an empty one is another's.

    Raises:
        NotFound: There is no such file.
        BackendUnavailable: It did not answer within 5 s.
        UsageError: It lives in one process only, so that a command can't see anything in it.
    """
    broker = make_broker(url)
    if not broker.capabilities.multi_process:
        raise UsageError(
            f"{broker.name}: this broker lives inside one process; this command would meet an empty one\n"
            "  use a file (--backend sqlite:///broker.db), or pspf worker --in-process"
        )
    emit_timeout_ms = min(broker.limits.emit_timeout_ms, round(1000 * GIVE_UP_S) - _TO_SAY_WHY_MS)
    broker.limits = replace(broker.limits, emit_timeout_ms=emit_timeout_ms)
    if not makes and not broker.is_there:
        raise NotFound(
            f"no broker at {broker.name}: there is no such file; a worker or an emit makes it\n"
            "  is it the right folder? another one: --backend sqlite:///path.db, or PSPF_BACKEND"
        )
    try:
        async with asyncio.timeout(GIVE_UP_S):
            await broker.connect()
    except TimeoutError:
        raise BackendUnavailable(f"{broker.name} did not answer within {GIVE_UP_S:.0f} s") from None
    if names:
        say(f"broker: {broker.name}")
        obstacle = broker.find_obstacle()
        if obstacle is not None:
            say(f"nothing can be stored now: {obstacle}")
    try:
        yield broker
    finally:
        await broker.close()


async def read_topic_info(broker: Broker, topic: str) -> TopicInfo:
    """Return a topic, dead letters and late records included.

    Raises:
        NotFound: There is no such topic; the message has the nearest name.
    """
    try:
        return (await broker.read_topic(topic))[0]
    except NotFound:
        names = [info.topic for info in await broker.list_topics()]
        known = f"\n  topics here: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
        raise NotFound(f"no topic {topic!r} in {broker.name}{near(topic, names)}{known}") from None

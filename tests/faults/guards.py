"""Checks of scripts that are taken out: the stage that a scenario plays on, and what is common to many."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from pspf.clock import ManualClock
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.connection.scripts import Script
from pspf.records import Cursor, Record
from tests.support.brokers import World
from tests.support.servers import hall
from tests.support.workers import GROUP, HANDLER, TOPIC, Member, numbered, own, share, take

SHARED: Final = Cursor(TOPIC, GROUP, None, 0)
ORDERED: Final = Cursor(TOPIC, GROUP, HANDLER, 0)


class Stage:
    """A world on a server, and the server itself."""

    def __init__(self, world: World, clock: ManualClock, server_name: str, folder: Path) -> None:
        self.world = world
        self.clock = clock
        self.broker = world.broker
        assert isinstance(world.broker, ValkeyBroker)
        self.core = world.broker._core
        self._hall = hall(server_name)
        self._database = self._hall.database_of(folder)

    def call(self, *command: str | bytes | int) -> Any:
        """Send the server a command, as an operator does."""
        return self._hall.server.call(*command, database=self._database)

    def fill_memory(self, *, is_full: bool) -> None:
        """Let the server have no memory left, or plenty."""
        self._hall.server.configure("maxmemory", 1 if is_full else 0)


@dataclass(frozen=True, slots=True)
class Guard:
    """A piece of a script, what it is replaced with, and what goes wrong then."""

    module: ModuleType
    script: str
    text: str
    weaker: str
    scenario: Callable[[Stage], Awaitable[None]]

    @property
    def name(self) -> str:
        return f"{self.script.strip('_').lower()}-{self.scenario.__name__}"

    async def check(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the guard out, and see that the scenario ends badly."""
        whole: Script = getattr(self.module, self.script)
        assert whole.text.count(self.text) == 1, (
            f"{self.text!r} is in {whole.name}.lua {whole.text.count(self.text)} times"
        )
        text = whole.text.replace(self.text, self.weaker)
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        monkeypatch.setattr(self.module, self.script, Script(whole.name, text, sha))
        with pytest.raises(AssertionError):
            await self.scenario(stage)


def scenarios_of(guards: tuple[Guard, ...]) -> list[Callable[[Stage], Awaitable[None]]]:
    """Return the scenarios of guards, each once."""
    return list({guard.scenario.__name__: guard.scenario for guard in guards}.values())


async def refused(awaitable: Awaitable[object], error: type[Exception]) -> bool:
    """Return whether it raises `error`; no other error counts."""
    try:
        await awaitable
    except error:
        return True
    except Exception as other:  # what a server says of a script that lacks a check
        raise AssertionError(f"{other!r} instead of {error.__name__}") from other
    return False


async def open_batch(stage: Stage, *, is_ordered: bool, count: int = 2) -> tuple[Member, list[Record]]:
    """Append records and have a worker take them."""
    await stage.broker.append(TOPIC, numbered(count))
    member = await (own if is_ordered else share)(stage.broker)
    return member, list(await take(member.consumer))


async def lose_to_an_heir(stage: Stage, *, is_ordered: bool) -> tuple[Member, list[Record], Member]:
    """Return a worker that was taken for dead, what it still has in hand, and who has that by now."""
    zombie, records = await open_batch(stage, is_ordered=is_ordered)
    zombie.session.abandon()
    await stage.world.expire_leases()
    heir = await (own if is_ordered else share)(await stage.world.open_other())
    await take(heir.consumer)
    return zombie, records, heir

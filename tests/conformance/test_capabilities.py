"""Capabilities: what a broker claims is what it has, what it does not claim it refuses, and each has its tests."""

import ast
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.capabilities import Capabilities
from pspf.connectors.contract.inspection import Inspection
from pspf.connectors.contract.membership import Session
from pspf.connectors.contract.operations import Operations
from pspf.connectors.contract.roster import Roster
from pspf.connectors.leases.leases import Leases
from pspf.errors import NotAvailable
from pspf.records import Cursor
from tests.support.brokers import Kind, World, needs
from tests.support.workers import TOPIC, numbered, read_all, values

NAMES = {each.name for each in fields(Capabilities)}
CURSOR = Cursor(TOPIC, "g", None, 0)
REFUSALS: dict[str, list[tuple[type, str, Callable[[Any], Awaitable[object]]]]] = {
    "seek": [
        (Operations, "seek", lambda it: it.seek(CURSOR, 1)),
        (Operations, "delete_group", lambda it: it.delete_group("g")),
        (Operations, "rename_handler", lambda it: it.rename_handler("g", "a", "b")),
    ],
    "pending": [
        (Operations, "list_pending", lambda it: it.list_pending("g")),
        (Operations, "retry_pending", lambda it: it.retry_pending([])),
        (Operations, "drop_pending", lambda it: it.drop_pending([])),
    ],
    "trim": [
        (Operations, "trim", lambda it: it.trim(TOPIC, 0, before=1)),
        (Operations, "delete_topic", lambda it: it.delete_topic(TOPIC)),
    ],
    "repartition": [(Operations, "repartition", lambda it: it.repartition(TOPIC, 2))],
    "replay": [(Inspection, "replay_dead_letters", lambda it: it.replay_dead_letters([]))],
    "roster": [
        (Roster, "publish", lambda it: it.publish("w", b"", ttl_ms=1)),
        (Roster, "withdraw", lambda it: it.withdraw("w")),
        (Roster, "list_workers", lambda it: it.list_workers()),
        (Roster, "send", lambda it: it.send("w", b"")),
        (Roster, "take_commands", lambda it: it.take_commands("w")),
    ],
    "entries": [
        (Inspection, "read_entries", lambda it: it.read_entries(CURSOR, [])),
        (Inspection, "scan_entries", lambda it: it.scan_entries(CURSOR, 0)),
    ],
    "shared": [(Session, "share", lambda it: it.share(CURSOR))],
    "joint_commits": [(Session, "take_beside", lambda it: it.take_beside(None, CURSOR))],
}


async def part_of(broker: Broker, contract: type) -> Any:
    """Return the broker's object that has a part of the contract."""
    if contract is Session:
        return await broker.open_session()
    parts: dict[type, Any] = {Operations: broker.operations, Roster: broker.roster, Inspection: broker}
    return parts[contract]


def test_a_broker_claims_what_it_is_tested_for(broker: Broker, kind: Kind) -> None:
    assert broker.capabilities == kind.can


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_is_claimed_is_there_and_what_is_not_is_refused(broker: Broker, name: str) -> None:
    for contract, method, call in REFUSALS[name]:
        found = await part_of(broker, contract)
        is_there = getattr(type(found), method) is not getattr(contract, method)
        assert is_there == broker.capabilities.has(name), method
        if not is_there:
            with pytest.raises(NotAvailable, match="pspf broker info"):
                await call(found)


async def test_leases_are_claimed_by_whoever_has_them(broker: Broker) -> None:
    assert isinstance(await broker.open_session(), Leases) == broker.capabilities.leases


@needs("multi_process")
async def test_another_process_sees_what_this_one_stored(world: World) -> None:
    await world.broker.append(TOPIC, numbered(3))
    other = await world.open_other()
    assert other is not world.broker
    assert values(await read_all(other, TOPIC)) == ["0", "1", "2"]
    assert other.secret_url is not None


def test_every_capability_has_a_test() -> None:
    named: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "needs":
                named |= {str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)}
    assert named == NAMES

"""Commands where there is no broker yet: what only looks makes none, and says where it looked."""

import pytest

from tests.process.commands import Folder

LOOKS = (
    "broker info",
    "broker doctor",
    "dlq list",
    "dlq inspect orders/1",
    "dlq replay",
    "dlq purge --all --execute",
    "dlq export",
    "groups list",
    "groups inspect",
    "groups consumers",
    "groups seek g --to start --execute",
    "groups delete g --execute",
    "groups rename-handler g a b --execute",
    "pending list g",
    "pending retry g",
    "pending drop g --all --execute",
    "state list",
    "state get a k",
    "state dump",
    "tail orders",
    "top --once",
    "topics list",
    "topics inspect orders",
    "topics alter orders --retention 1d --execute",
    "topics trim orders --max-records 1 --execute",
    "topics delete orders --execute",
    "topics repartition orders --partitions 2 --execute",
    "windows list",
    "workers list",
    "workers ping",
)


@pytest.mark.parametrize("command", LOOKS)
@pytest.mark.parametrize("place", [(), ("--backend", "sqlite:///no-such.db")], ids=["default", "named"])
def test_who_looks_makes_no_broker(folder: Folder, command: str, place: tuple[str, ...]) -> None:
    before = sorted(folder.path.iterdir())
    found = folder.look(*command.split(), *place)
    assert (found.code, found.out) == (6, ""), found
    assert ("no-such.db" if place else ".pspf/broker.db") in found.err
    assert "no such file" in found.err
    assert sorted(folder.path.iterdir()) == before


@pytest.mark.parametrize("what", ["live", "ready"])
def test_nothing_is_healthy_where_there_is_none(folder: Folder, what: str) -> None:
    assert folder.look("health", what).code == 10
    assert not (folder.path / ".pspf").exists()


def test_who_stores_makes_it_and_who_looks_names_it(folder: Folder) -> None:
    folder.ok("topics", "create", "orders")
    for command in ("dlq list", "state list", "state dump", "tail orders", "topics list", "dlq export", "workers list"):
        found = folder.ok(*command.split())
        assert found.err.startswith("broker: sqlite:///"), command
    assert folder.ok("dlq", "list").err.splitlines()[1:] == ["no dead letters"]

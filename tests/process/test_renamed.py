"""A handler that was renamed: the worker that refuses, and the ways on from there."""

import pytest

from tests.process.commands import APP, Folder
from tests.support.servers import hall


def rename(folder: Folder) -> None:
    """Handle five orders, then let the app call its handler otherwise."""
    folder.run("emit", "orders", "-", stdin="\n".join(f'{{"n": {n}, "key": "k"}}' for n in range(1, 6)))
    folder.run("worker", "--burst")
    (folder.path / "app.py").write_text(APP.replace('name="app.total"', 'name="app.sum"'))


@pytest.mark.parametrize("broker", ["sqlite", "valkey"])
def test_a_worker_refuses_until_the_cursor_is_renamed_too(folder: Folder, broker: str) -> None:
    if broker == "valkey":
        shared = hall("valkey")
        place = f"valkey://127.0.0.1:{shared.server.port}/{shared.database_of(folder.path)}"
        folder.environment["PSPF_BACKEND"] = place
    rename(folder)
    refused = folder.pspf("worker", "--burst", "-w", "2")
    assert refused.code == 7
    assert "rename-handler billing app.total app.sum --topic orders" in refused.err
    assert "start 1" not in refused.out
    planned = folder.run("groups", "rename-handler", "billing", "app.total", "app.sum", "--json")
    assert (planned.json["cursors"], planned.json["executed"]) == (1, False)
    assert folder.pspf("worker", "--burst").code == 7
    folder.run("groups", "rename-handler", "billing", "app.total", "app.sum", "--execute")
    assert "start" not in folder.run("worker", "--burst").out
    assert folder.run("state", "get", "app.sum", "k", "sum").out == "15\n"


def test_a_worker_starts_anew_where_that_is_meant(folder: Folder) -> None:
    rename(folder)
    assert folder.pspf("worker", "--burst", "--in-process").code == 7
    accepted = folder.run("worker", "--burst", "--accept-orphans")
    assert "handled 5" in accepted.err
    assert folder.run("worker", "--burst", PSPF_ACCEPT_ORPHANS="1").out == ""


def test_a_handler_that_is_not_needed_any_more_is_forgotten_alone(folder: Folder) -> None:
    rename(folder)
    folder.run("groups", "delete", "billing", "--topic", "orders", "--handler", "app.total", "--execute")
    assert "handled 5" in folder.run("worker", "--burst").err


def test_only_the_topics_that_a_worker_reads_matter(folder: Folder) -> None:
    rename(folder)
    folder.run("worker", "--burst", "--only", "large")

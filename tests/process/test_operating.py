"""What an operator does from the command line: plans, refusals, and what happens with --execute."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from pspf.connectors.sqlite.broker import SQLiteBroker
from pspf.connectors.sqlite.formats import FORMAT
from tests.process.commands import Folder, wait_until
from tests.support.servers import hall


def fill(folder: Folder, count: int = 5, **fields: Any) -> None:
    """Emit orders and let a worker handle them."""
    folder.emit(count, **fields)
    folder.run("worker", "--burst")


def next_of(folder: Folder, group: str = "billing") -> tuple[str | None, int | None]:
    """Return (committed, lag) of the group's only partition."""
    found = folder.ok("groups", "inspect", group, "--json").json["groups"][0]
    return found["partitions"][0]["committed"], found["lag"]


def test_a_seek_plans_refuses_and_moves(folder: Folder) -> None:
    fill(folder)
    refused = folder.look("groups", "seek", "billing", "--to", "start", "--execute")
    assert (refused.code, refused.out) == (7, "")
    assert "--reset-state" in refused.err
    assert "--keep-state" in refused.err
    planned = folder.ok("groups", "seek", "billing", "--to", "-2", "--keep-state", "--json")
    assert planned.json == {
        "cursors": [
            {
                "group": "billing",
                "topic": "orders",
                "handler": "app.total",
                "partition": 0,
                "from": "6",
                "to": "4",
                "unfinished": 0,
                "values": 1,
                "consumers": [],
            }
        ],
        "executed": False,
    }
    assert "nothing changed; add --execute" in planned.err
    assert next_of(folder) == ("5", 0)
    assert folder.ok("groups", "seek", "billing", "--to", "4", "--reset-state", "--execute", "--json").json["executed"]
    assert next_of(folder) == ("3", 2)
    folder.run("worker", "--burst")
    assert folder.ok("state", "get", "total", "k", "sum").out == "9\n"


def test_a_seek_says_what_it_can_not_do(folder: Folder) -> None:
    fill(folder)
    for arguments, code, message in (
        (("biling", "--to", "end"), 6, "did you mean 'billing'?"),
        (("billing", "--to", "end", "--topic", "oders"), 6, "did you mean 'orders'?"),
        (("billing", "--to", "end", "--handler", "app.totl"), 6, "did you mean 'app.total'?"),
        (("billing", "--to", "end", "-p", "3"), 6, "no partition 3"),
        (("billing", "--to", "soon"), 2, "--to 'soon'"),
        (("billing",), 2, "--to"),
    ):
        ended = folder.look("groups", "seek", *arguments)
        assert (ended.code, ended.out) == (code, ""), arguments
        assert message in ended.err, arguments
        assert len(ended.err.splitlines()) <= 7, arguments


def test_a_running_group_is_moved_by_force_and_goes_on_from_there(folder: Folder) -> None:
    folder.emit(3)
    with folder.worker() as worker:
        worker.wait_for("start 3")
        wait_until(lambda: next_of(folder) == ("3", 0))
        consumers = folder.ok("groups", "consumers", "billing", "--json").json["consumers"]
        assert [(c["group"], c["topic"], c["handler"]) for c in consumers] == [("billing", "orders", "app.total")]
        refused = folder.look("groups", "seek", "billing", "--to", "2", "--reset-state", "--execute")
        assert refused.code == 7
        assert consumers[0]["consumer"] in refused.err
        folder.ok("groups", "seek", "billing", "--to", "2", "--reset-state", "--force", "--execute")
        worker.wait_for("start 3", 2)
        wait_until(lambda: next_of(folder) == ("3", 0))
        assert worker.says("start 1", 1)
        assert not worker.says("start 1", 2)
    assert folder.ok("state", "get", "total", "k", "sum").out == "5\n"


def test_a_group_is_deleted_when_told_so(folder: Folder) -> None:
    fill(folder)
    planned = folder.ok("groups", "delete", "billing", "--json").json
    assert (planned["cursors"], planned["executed"]) == (1, False)
    assert folder.ok("groups", "list").out.count("billing") == 1
    assert folder.ok("groups", "delete", "billing", "--execute").out.endswith("billing deleted\n")
    assert folder.look("groups", "delete", "billing", "--execute").code == 6
    assert folder.ok("state", "list", "--json").json == {"state": []}
    folder.run("worker", "--burst")
    assert folder.ok("state", "get", "total", "k", "sum").out == "15\n"


def test_pending_records_are_listed_retried_and_dropped(folder: Folder) -> None:
    app = folder.path / "app.py"
    app.write_text(
        app.read_text().replace(
            "max_attempts=2, initial_ms=20", "max_attempts=9, initial_ms=3_600_000, max_ms=3_600_000"
        )
    )
    lines = [{"n": 1, "key": "a", "do": "fail"}, {"n": 2, "key": "a"}, {"n": 3, "key": "b", "do": "fail"}]
    folder.emit_lines("\n".join(map(json.dumps, lines)))
    with folder.worker() as worker:
        worker.wait_for("attempt 1/9", 2)
        wait_until(lambda: len(folder.ok("pending", "list", "billing", "--json").json["pending"]) == 3)
        listed = folder.ok("pending", "list", "billing", "--json").json["pending"]
        assert [(r["id"], r["key"], r["waiting"], r["attempts"], r["error"]) for r in listed] == [
            ("1", "a", "retry", 1, "ValueError: order 1 is bad"),
            ("2", "a", "held back", 0, ""),
            ("3", "b", "retry", 1, "ValueError: order 3 is bad"),
        ]
        assert "ValueError: order 1 is bad" in folder.ok("pending", "list", "billing").out
        whole = folder.ok("pending", "list", "--json").json
        assert [(r["group"], r["id"]) for r in whole["pending"]] == [
            ("billing", "1"),
            ("billing", "2"),
            ("billing", "3"),
        ]
        assert [r["id"] for r in folder.ok("pending", "list", "--id", "orders/2", "--json").json["pending"]] == ["2"]
        unknown = folder.look("pending", "list", "--id", "77")
        assert (unknown.code, "record 77 is not pending" in unknown.err) == (6, True)
        assert folder.ok("pending", "retry", "billing", "--id", "3", "--json").json == {"retried": 1}
        worker.wait_for("attempt 2/9")
        planned = folder.ok("pending", "drop", "billing", "--key", "a", "--error", "ValueError", "--json").json
        assert ([r["id"] for r in planned["pending"]], planned["dropped"]) == (["1"], 0)
        assert folder.ok("pending", "drop", "billing", "--id", "orders/1", "--execute").out == "1 record dropped\n"
        worker.wait_for("start 2")
    assert folder.ok("broker", "info", "--json").json["dropped"] == 1
    assert folder.look("pending", "drop", "billing").code == 2
    assert folder.look("pending", "list", "biling").code == 6
    missing = folder.look("pending", "retry", "billing", "--id", "99")
    assert missing.code == 6
    assert "pspf pending list billing" in missing.err


def test_a_topic_is_trimmed_up_to_what_groups_have_finished(folder: Folder) -> None:
    fill(folder, 6)
    folder.ok("groups", "seek", "billing", "--to", "4", "--keep-state", "--execute")
    planned = folder.ok("topics", "trim", "orders", "--max-records", "1", "--json").json
    assert (planned["records"], planned["lost"], planned["executed"]) == (3, 0, False)
    assert planned["partitions"][0]["held_by"] == [{"group": "billing", "handler": "app.total"}]
    assert len(folder.ok("tail", "orders", "--jsonl").json_lines) == 6
    partly = folder.look("topics", "trim", "orders", "--max-records", "1", "--execute")
    assert partly.code == 8
    assert "billing/app.total" in partly.err
    assert [r["id"] for r in folder.ok("tail", "orders", "--jsonl").json_lines] == ["4", "5", "6"]
    lossy = folder.ok("topics", "trim", "orders", "--to", "end", "--drop-unread", "--execute", "--json").json
    assert (lossy["records"], lossy["lost"]) == (3, 3)
    assert folder.ok("broker", "info", "--json").json["lost"] == 3
    assert folder.lag()["billing"] == 0


def test_a_trim_needs_one_measure(folder: Folder) -> None:
    fill(folder)
    assert folder.look("topics", "trim", "orders").code == 2
    assert folder.look("topics", "trim", "orders", "--to", "end", "--max-records", "1").code == 2
    assert folder.look("topics", "trim", "orders", "--max-bytes", "lots").code == 2
    assert folder.look("topics", "trim", "oders", "--to", "end").code == 6
    assert folder.ok("topics", "trim", "orders", "--max-bytes", "1kB", "--json").json["records"] == 0


def test_a_topic_is_deleted_with_its_dead_letters(folder: Folder) -> None:
    fill(folder, 2, do="fail")
    refused = folder.look("topics", "delete", "orders", "--execute")
    assert refused.code == 7
    assert "billing on orders" in refused.err
    planned = folder.ok("topics", "delete", "orders", "--force", "--json").json
    assert [t["topic"] for t in planned["topics"]] == ["orders", "orders-dlq"]
    assert folder.look("topics", "inspect", "orders").code == 0
    folder.ok("topics", "delete", "orders", "--force", "--execute")
    assert folder.look("topics", "inspect", "orders").code == 6
    assert folder.look("topics", "delete", "orders").code == 6
    assert "billing" not in folder.lag()


def test_a_finished_topic_is_repartitioned(folder: Folder) -> None:
    fill(folder, 6)
    refused = folder.look("topics", "repartition", "orders", "--partitions", "4", "--execute")
    assert refused.code == 7
    assert "--reset-state" in refused.err
    options = ("orders", "--partitions", "4", "--reset-state", "--json")
    planned = folder.ok("topics", "repartition", *options).json
    assert planned == {"topic": "orders", "from": 1, "to": 4, "records": 6, "executed": False}
    assert folder.ok("topics", "repartition", *options, "--execute").json["executed"]
    assert len(folder.ok("topics", "inspect", "orders", "--json").json["partitions"]) == 4
    folder.emit(3)
    folder.run("worker", "--burst")
    assert folder.ok("state", "get", "total", "k", "sum").out == "6\n"
    folder.emit(1)
    assert folder.look("topics", "repartition", "orders", "-p", "2", "--reset-state").code == 7


def test_the_broker_says_what_it_is(folder: Folder) -> None:
    fill(folder)
    info = folder.ok("broker", "info", "--json").json
    assert (info["kind"], info["records"], info["format"]) == ("sqlite", 5, FORMAT)
    assert info["persistence"] == "WAL, synchronous=FULL"
    told = folder.ok("broker", "info").out
    assert "SQLite 3." in told
    assert info["capabilities"] == asdict(SQLiteBroker.capabilities)
    assert "shared mode, ordered mode" in told
    assert "lacks" not in told


def test_the_doctor_finds_nothing_wrong_with_a_sound_broker(folder: Folder) -> None:
    fill(folder)
    found = folder.ok("broker", "doctor", "--json").json
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} >= {
        "version",
        "integrity",
        "file system",
        "disk space",
        "clock",
    }
    assert not [check for check in found["checks"] if check["status"] == "fail"]


def test_the_doctor_warns_of_commits_that_a_power_cut_undoes(folder: Folder) -> None:
    fill(folder)
    found = folder.ok("broker", "doctor", "--json", "--backend", "sqlite:///.pspf/broker.db?synchronous=NORMAL").json
    (check,) = [check for check in found["checks"] if check["name"] == "synchronous"]
    assert check["status"] == "warn"
    assert "FULL" in check["remedy"]


def test_the_doctor_ends_with_code_10_where_the_file_is_damaged(folder: Folder) -> None:
    fill(folder, 3_000)
    file = folder.path / ".pspf" / "broker.db"
    damaged = bytearray(file.read_bytes())
    size = len(damaged)
    damaged[size // 2 : size // 2 + 8_192] = b"\xff" * 8_192
    file.write_bytes(damaged)
    ended = folder.pspf("broker", "doctor", "--json")
    assert ended.code == 10, ended
    assert ended.json["ok"] is False
    failed = [check for check in ended.json["checks"] if check["status"] == "fail"]
    assert failed
    assert all(check["remedy"] for check in failed)
    file.write_bytes(b"not a database, but long enough to look like one" * 100)
    ended = folder.pspf("broker", "doctor")
    assert (ended.code, ended.out.startswith("fail  open")) == (10, True)


@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_an_operator_does_the_same_on_a_server(folder: Folder, name: str) -> None:
    url = hall(name).server.url(database=hall(name).database_of(folder.path))
    at = ("--backend", url)
    lines = "\n".join(json.dumps({"n": n, "key": f"k{n % 2}"}) for n in range(1, 7))
    (folder.path / "lines.ndjson").write_text(lines)
    folder.ok("emit", "orders", "@lines.ndjson", *at)
    folder.run("worker", "--burst", *at)
    assert folder.look("groups", "seek", "billing", "--to", "start", *at).code == 7
    moved = folder.ok("groups", "seek", "billing", "--to", "-2", "--keep-state", "--execute", "--json", *at).json
    assert [c["values"] for c in moved["cursors"]] == [2]
    assert folder.ok("groups", "inspect", "billing", "--json", *at).json["groups"][0]["lag"] == 2
    partly = folder.look("topics", "trim", "orders", "--max-records", "1", "--execute", "--json", *at)
    assert (partly.code, partly.json["records"]) == (8, 4)
    folder.run("worker", "--burst", *at)
    assert folder.ok("pending", "list", "billing", "--json", *at).json == {"pending": [], "timers": []}
    assert folder.look("topics", "repartition", "orders", "-p", "4", "--execute", *at).code == 7
    folder.ok("topics", "repartition", "orders", "-p", "4", "--reset-state", "--execute", *at)
    assert len(folder.ok("topics", "inspect", "orders", "--json", *at).json["partitions"]) == 4
    assert folder.ok("broker", "info", "--json", *at).json["kind"] == name
    assert folder.ok("broker", "doctor", "--json", *at).json["ok"] is True
    assert "ACL SETUSER pspf" in folder.ok("broker", "doctor", *at).out
    folder.ok("groups", "delete", "billing", "--execute", *at)
    folder.ok("topics", "delete", "orders", "--execute", *at)
    assert [t["topic"] for t in folder.ok("topics", "list", "--json", *at).json["topics"]] == ["large"]

"""Commands that look into the broker: tail, topics, groups, dlq, state."""

import json
import subprocess
import sys

from tests.process.commands import APP, Folder


def fill(folder: Folder, partitions: int = 1) -> None:
    folder.ok("topics", "create", "orders", "--partitions", str(partitions))
    lines = [json.dumps({"n": n, "key": f"k{n}", "user": {"name": f"u{n}"}}) for n in range(1, 8)]
    folder.emit_lines("\n".join(lines))


def numbers(folder: Folder, *arguments: str) -> list[int]:
    return [record["event"]["n"] for record in folder.ok("tail", "orders", "--jsonl", *arguments).json_lines]


def test_tail_starts_where_it_is_told(folder: Folder) -> None:
    fill(folder)
    assert numbers(folder) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(folder, "-n", "2") == [1, 2]
    assert numbers(folder, "--from", "-3") == [5, 6, 7]
    assert numbers(folder, "--from", "-3", "-n", "1") == [5]
    assert numbers(folder, "--from", "6") == [6, 7]
    assert numbers(folder, "--from", "end") == []
    assert numbers(folder, "--from", "@-1h", "-n", "1") == [1]
    assert numbers(folder, "--from", "@2100-01-01T00:00:00Z") == []


def test_tail_puts_partitions_together(folder: Folder) -> None:
    fill(folder, partitions=3)
    assert sorted(numbers(folder)) == [1, 2, 3, 4, 5, 6, 7]
    assert len(numbers(folder, "--from", "-2")) == 2
    assert sorted(n for p in "012" for n in numbers(folder, "-p", p)) == [1, 2, 3, 4, 5, 6, 7]


def test_tail_shows_what_fits_as_asked(folder: Folder) -> None:
    fill(folder)
    text = folder.ok("tail", "orders", "--where", "n>=5", "--where", "user.name!=u6", "--format", "%i %k %T%%")
    assert text.out == "5 k5 orders%\n7 k7 orders%\n"
    assert folder.ok("tail", "orders", "--json", "-n", "1").json["records"][0]["key"] == "k1"


def test_tail_follows(folder: Folder) -> None:
    fill(folder)
    follower = subprocess.Popen(
        [sys.executable, "-m", "pspf", "tail", "orders", "-f", "-n", "9", "--format", "%i"],
        cwd=folder.path,
        env=folder.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    with follower:
        assert [follower.stdout.readline() for _ in range(7)] == [f"{n}\n" for n in range(1, 8)]
        folder.emit(2)
        assert follower.stdout.read() == "8\n9\n"
    assert follower.returncode == 0


def test_what_is_not_there_ends_with_code_6_and_a_near_name(folder: Folder) -> None:
    fill(folder)
    folder.run("worker", "--burst")
    for arguments, message in {
        ("tail", "ordrs"): "did you mean 'orders'?",
        ("tail", "orders", "-p", "4"): "no partition 4",
        ("topics", "inspect", "nope"): "no topic 'nope'",
        ("groups", "inspect", "biling"): "did you mean 'billing'?",
        ("dlq", "list", "ordrs"): "did you mean 'orders'?",
        ("dlq", "inspect", "77"): "no dead letter 77",
        ("state", "get", "app.totl", "k1"): "did you mean 'app.total'?",
        ("state", "get", "app.total", "nobody"): "remembers nothing for key 'nobody'",
        ("state", "get", "app.total", "k1", "sun"): "did you mean 'sum'?",
    }.items():
        ended = folder.look(*arguments)
        assert (ended.code, ended.out) == (6, ""), arguments
        assert message in ended.err, arguments


def test_topics_are_made_once_and_never_remapped(folder: Folder) -> None:
    made = folder.ok("topics", "create", "t", "--partitions", "2", "--retention", "1h", "--json").json
    assert made == {"topic": "t", "partitions": 2, "created": True}
    assert folder.ok("topics", "create", "t", "--json").json["created"] is False
    assert folder.look("topics", "create", "t", "--partitions", "3").code == 2
    inspected = folder.ok("topics", "inspect", "t", "--json").json
    assert inspected["retention_ms"] == 3_600_000
    assert [p["records"] for p in inspected["partitions"]] == [0, 0]


def test_a_lag_above_the_limit_ends_with_code_10(folder: Folder) -> None:
    folder.emit(2)
    folder.run("worker", "--burst")
    folder.ok("groups", "inspect", "--lag-over", "0")
    folder.emit(3)
    ended = folder.look("groups", "inspect", "billing", "--lag-over", "2", "--json")
    assert ended.code == 10
    assert ended.json["groups"][0]["lag"] == 3
    folder.ok("groups", "inspect", "billing", "--lag-over", "3")
    assert {g["group"]: g["lag"] for g in folder.ok("groups", "list", "--json").json["groups"]}["billing"] == 3


def test_a_running_worker_is_the_owner_of_its_cursors(folder: Folder) -> None:
    folder.emit()
    with folder.worker() as worker:
        worker.wait_for("start 1")
        group = folder.ok("groups", "inspect", "billing", "--json").json["groups"][0]
        owner = group["partitions"][0]["owner"]
        assert [c["consumer"] for c in group["consumers"]] == [owner]
        assert owner.split("-")[-2] == worker.log.read_text().split("start 1 ")[1].split()[0]


def test_a_dead_letter_is_listed_shown_replayed_and_purged(folder: Folder) -> None:
    folder.emit(1, do="fail", n=41)
    folder.emit(1, do="fail", n=42)
    said = folder.run("worker", "--burst").err
    assert "dead 2, lag 0" in said
    letters = folder.ok("dlq", "list", "--json").json["dead_letters"]
    assert [(x["topic"], x["group"], x["handler"], x["attempts"], x["error_type"], x["error"]) for x in letters] == [
        ("orders", "billing", "app.total", 2, "ValueError", "order 41 is bad"),
        ("orders", "billing", "app.total", 2, "ValueError", "order 42 is bad"),
    ]
    assert [x["original_id"] for x in letters] == ["1", "2"]
    first, second = (x["id"] for x in letters)
    page = folder.ok("dlq", "inspect", first).out
    assert "order 41 is bad" in page
    assert "app.py" in page
    assert folder.ok("dlq", "inspect", first, "--json").json["event"]["n"] == 41
    told = [line.rpartition("pspf dlq inspect ")[2].split()[0] for line in said.splitlines() if "dlq inspect" in line]
    assert [folder.ok("dlq", "inspect", name, "--json").json["event"]["n"] for name in told] == [41, 42]
    assert len(folder.ok("dlq", "export", "orders").json_lines) == 2
    assert folder.ok("dlq", "list", "--error", "KeyError", "--json").json == {"dead_letters": []}

    assert folder.ok("dlq", "replay", "orders", "--id", first, "--json").json == {"replayed": 1}
    assert folder.lag()["billing"] == 1
    assert "failed 2, dead 1" in folder.run("worker", "--burst").err

    assert folder.ok("dlq", "purge", "orders", "--id", second, "--json").json == {"planned": 1, "purged": 0}
    assert folder.ok("dlq", "purge", "orders", "--id", second, "--execute", "--json").json["purged"] == 1
    assert len(folder.ok("dlq", "list", "--json").json["dead_letters"]) == 1
    assert folder.look("dlq", "purge", "--execute").code == 2


OTHERS = """

for group in ("mail", "gone"):
    @stream.subscribe("orders", group=group, name=f"app.{group}", retry=RetryPolicy(max_attempts=1))
    async def other(order: Order, ctx: Context):
        print("other", order.n)
        if order.do == "all":
            raise ValueError("none of them")
"""


def test_trimmed_dead_letters_are_replayed_for_their_groups_alone(folder: Folder) -> None:
    (folder.path / "app.py").write_text(APP + OTHERS)
    folder.emit(1, do="fail", n=41)
    folder.emit(1, do="all", n=42, key="z")
    assert folder.run("worker", "--burst").out.count("other 41") == 2
    folder.ok("groups", "delete", "gone", "--topic", "orders", "--execute")
    folder.ok("topics", "trim", "orders", "--max-records", "0", "--execute")

    replayed = folder.look("dlq", "replay", "orders", "--json")
    assert (replayed.code, replayed.json) == (6, {"replayed": 2, "left": 1})
    assert "group 'gone' has no such cursor any more; use --to" in replayed.err
    assert folder.ok("tail", "orders", "--jsonl").json_lines == []
    assert [folder.lag()[group] for group in ("billing", "mail")] == [1, 1]
    (waiting,) = folder.ok("pending", "list", "billing", "--json").json["pending"]
    assert (waiting["id"], waiting["key"]) == ("1", "k")
    assert folder.look("broker", "doctor").code == 0

    (folder.path / "app.py").write_text(APP + OTHERS.replace('("mail", "gone")', '("mail",)'))
    said = folder.run("worker", "--burst").out
    assert (said.count("start 41"), said.count("other 41"), said.count("other 42")) == (2, 0, 1)
    assert [folder.lag()[group] for group in ("billing", "mail")] == [0, 0]


def test_state_is_listed_and_dumped(folder: Folder) -> None:
    folder.emit(3, key="ann")
    folder.run("worker", "--burst")
    entry = {
        "handler": "app.total",
        "topic": "orders",
        "group": "billing",
        "partition": 0,
        "key": "ann",
        "name": "sum",
        "value": 6,
    }
    assert folder.ok("state", "list", "--json").json == {"state": [entry]}
    assert folder.ok("state", "list", "total", "--key", "ann", "--json").json == {"state": [entry]}
    assert folder.ok("state", "dump").json_lines == [entry]
    assert folder.ok("state", "get", "total", "ann", "sum").out == "6\n"


def test_an_argument_that_is_not_utf8_is_named(folder: Folder) -> None:
    fill(folder)
    for words in (("tail", "k\udcff"), ("topics", "inspect", "k\udcff"), ("groups", "inspect", "k\udcff")):
        found = folder.look(*words)
        assert (found.code, found.err.splitlines()[-1]) == (
            2,
            r"error: the argument b'k\xff' is not UTF-8: keys and names are text",
        )

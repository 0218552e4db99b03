"""Topics declared in code, on the command line: shown, announced, made by a worker's processes, altered."""

from tests.process.commands import Folder

APP = """
from pydantic import BaseModel
from pspf import Stream

stream = Stream(topic="events", group="shop", partitions=2)


class Order(BaseModel):
    customer_id: str


orders = stream.topic("orders", partitions=4, retention="7d", key="customer_id", schema=Order)
stream.topic("audit")


@stream.subscribe(orders, ordering="key", name="shop.bill")
async def bill(order):
    print("billed", order.customer_id)
"""


def test_declared_topics_are_shown_and_announced(folder: Folder) -> None:
    (folder.path / "shop.py").write_text(APP)
    as_json, table, checked = folder.each(("show", "shop", "--json"), ("show", "shop"), ("worker", "shop", "--check"))
    assert as_json.json["topics"] == [
        {"topic": "audit", "partitions": None, "retention_ms": None, "key": None, "schema": None},
        {"topic": "orders", "partitions": 4, "retention_ms": 604_800_000, "key": "customer_id", "schema": "Order"},
    ]
    assert as_json.json["handlers"][0]["model"] == "Order"
    assert "customer_id" in table.out
    made = ["audit (partitions as they are)", "events (2 partitions)", "orders (4 partitions, retention 7d)"]
    assert f"makes where missing: {', '.join(made)}" in checked.err
    assert not (folder.path / ".pspf").exists()


def test_a_workers_processes_make_declared_topics_once(folder: Folder) -> None:
    (folder.path / "shop.py").write_text(APP)
    folder.run("worker", "shop", "--burst", "-w", "3")
    made = {each["topic"]: each["partitions"] for each in folder.ok("topics", "list", "--json").json["topics"]}
    assert {"orders": 4, "events": 2, "audit": 1}.items() <= made.items()
    assert folder.ok("topics", "inspect", "orders", "--json").json["retention_ms"] == 604_800_000
    (folder.path / "larger.py").write_text(APP.replace("partitions=4", "partitions=8"))
    refused = folder.pspf("worker", "larger", "--burst")
    assert refused.code != 0
    assert "has 4 partitions, not 8" in refused.err


def test_the_command_that_the_warning_of_another_retention_names_ends_it(folder: Folder) -> None:
    (folder.path / "shop.py").write_text(APP)
    folder.ok("topics", "create", "orders", "--partitions", "4", "--retention", "30d")
    command = "pspf topics alter orders --retention 7d --execute"
    warned = folder.run("worker", "shop", "--burst")
    assert command in " ".join(warned.err.split())
    planned = folder.ok("topics", "alter", "orders", "--retention", "7d")
    assert "30 d -> 7 d" in planned.out
    assert "earlier than before" in planned.err
    altered = folder.ok(*command.split()[1:], "--json").json
    assert altered == {"topic": "orders", "from_ms": 2_592_000_000, "to_ms": 604_800_000, "executed": True}
    assert "topics alter" not in folder.run("worker", "shop", "--burst").err
    assert folder.look("topics", "alter", "orders", "--retention", "soon").code == 2
    assert folder.look("topics", "alter", "nope", "--retention", "default").code == 6

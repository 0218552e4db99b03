"""A handler that groups by another key, on the command line: shown, run, inspected, reset, renamed, deleted."""

from tests.process.commands import Folder

APP = """
from pspf import BaseEvent, Context, Stream

stream = Stream(topic="orders", group="shop", partitions=4)


class Order(BaseEvent):
    customer: str
    n: int


@stream.subscribe("orders", ordering="key", key="customer", name="total")
async def total(order: Order, ctx: Context):
    await ctx.state.put("total", await ctx.state.get("total", 0) + order.n)
"""
HOP = "shop.total.repartition"


def test_a_grouped_handler_is_looked_after_with_its_internal_topic(folder: Folder) -> None:
    (folder.path / "shop.py").write_text(APP)
    as_json, table, mermaid = folder.each(
        ("show", "shop", "--json"), ("show", "shop"), ("show", "shop", "--graph", "mermaid")
    )
    (handler,) = as_json.json["handlers"]
    assert (handler["ordering"], handler["key"], handler["repartition"]) == ("key", "customer", HOP)
    assert "key customer" in table.out
    assert HOP in " ".join(table.err.split())
    assert HOP in mermaid.out
    folder.run("topics", "create", "orders", "--partitions", "4")
    lines = "\n".join(f'{{"customer": "c{n % 3}", "n": {n}, "key": "k{n}"}}' for n in range(12))
    folder.run("emit", "orders", "-", stdin=lines)
    folder.run("worker", "shop", "--burst", "-w", "2")
    read = ("state", "get", "total", "c1", "total", "--json")
    assert folder.ok(*read).json["value"] == 22
    groups = folder.ok("groups", "inspect", "shop", "--json").json["groups"]
    assert {(group["topic"], group["lag"]) for group in groups} == {("orders", 0), (HOP, 0)}
    assert folder.look("groups", "rename-handler", "shop", "total", "sum").code == 7
    folder.ok("groups", "seek", "shop", "--to", "start", "--reset-state", "--execute")
    assert folder.ok("state", "list", "--json").json["state"] == []
    folder.run("worker", "shop", "--burst", "-w", "2")
    assert folder.ok(*read).json["value"] == 22
    (folder.path / "shop.py").write_text(APP.replace('key="customer"', 'key="n"'))
    refused = folder.pspf("worker", "shop", "--burst")
    assert refused.code != 0
    assert "had key=customer" in refused.err
    folder.ok("groups", "delete", "shop", "--execute")
    assert HOP not in {each["topic"] for each in folder.ok("topics", "list", "--json").json["topics"]}

"""Timers from the command line: what waits is listed, bursts end; administrators keep or drop them with the state."""

from pathlib import Path
from typing import Final

import pytest

from tests.process.commands import Folder
from tests.support.servers import hall

TIMED: Final = """
from pspf import Context, Stream, Timer

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders", ordering="key", name="app.order", schema=dict)
async def order(event: dict, ctx: Context):
    ctx.timer("tomorrow", after_ms=86_400_000, payload={"n": event["n"]})
    ctx.timer("soon", after_ms=20 * event["n"])
    ctx.timer("in time", at_ms=5_000 * event["n"])


@stream.on_timer(order)
async def fire(timer: Timer, ctx: Context):
    ctx.emit({"name": timer.name, "n": timer.payload}, topic="fired", key=timer.key)
"""


def fired(folder: Folder) -> list[str]:
    """Return the names of the timers that have fired."""
    found = folder.pspf("tail", "fired", "--jsonl")
    return [line["event"]["name"] for line in found.json_lines]


@pytest.fixture(params=["sqlite", "valkey"])
def timed(request: pytest.FixtureRequest, folder: Folder) -> Folder:
    """A folder whose app has set timers of two keys, and none of them is due any more but in 24 h and in event time."""
    if request.param == "valkey":
        shared = hall("valkey")
        place = f"valkey://127.0.0.1:{shared.server.port}/{shared.database_of(folder.path)}"
        folder.environment["PSPF_BACKEND"] = place
    (folder.path / "app.py").write_text(TIMED)
    lines = "\n".join(f'{{"n": {n}, "key": "k{n}", "timestamp": 1}}' for n in (1, 2))
    folder.run("emit", "orders", "-", stdin=lines)
    folder.run("worker", "--burst")
    return folder


def test_what_waits_is_listed_and_a_burst_does_not_wait_for_tomorrow(timed: Folder) -> None:
    timed.run("emit", "orders", "-", stdin='{"n": 9, "key": "k9", "timestamp": 5}')
    timed.run("worker", "--burst")
    assert "in time" in fired(timed)
    found = timed.run("pending", "list", "billing", "--json").json
    assert found["pending"] == []
    waiting = {(each["key"], each["name"]): each for each in found["timers"] if each["name"] != "soon"}
    assert set(waiting) == {
        ("k1", "tomorrow"),
        ("k2", "tomorrow"),
        ("k2", "in time"),
        ("k9", "tomorrow"),
        ("k9", "in time"),
    }
    assert waiting["k1", "tomorrow"]["payload"] == {"n": 1}
    assert (waiting["k1", "tomorrow"]["kind"], waiting["k2", "in time"]["kind"]) == ("clock", "event time")
    assert waiting["k2", "in time"]["due_ms"] == 10_000
    assert [each["due_ms"] for each in found["timers"]] == sorted(each["due_ms"] for each in found["timers"])
    some = timed.run("pending", "list", "billing", "--key", "k2", "-n", "1", "--json").json["timers"]
    assert [each["key"] for each in some] == ["k2"]
    table = timed.run("pending", "list", "billing").out
    assert "tomorrow" in table
    assert "event time" in table


def test_final_fires_what_waits_for_event_time_and_leaves_the_clock_alone(timed: Folder) -> None:
    timed.run("worker", "--burst", "--final", "-w", "2")
    assert fired(timed).count("in time") == 2
    assert "tomorrow" not in fired(timed)
    left = timed.run("pending", "list", "billing", "--json").json["timers"]
    assert {each["name"] for each in left} - {"soon"} == {"tomorrow"}


def test_a_seek_keeps_or_drops_them_with_the_state(timed: Folder) -> None:
    assert timed.pspf("groups", "seek", "billing", "--to", "end", "--execute").code == 7
    timed.run("groups", "seek", "billing", "--to", "end", "--keep-state", "--execute")
    names = {each["name"] for each in timed.run("pending", "list", "billing", "--json").json["timers"]}
    assert {"tomorrow", "in time"} <= names
    timed.run("groups", "seek", "billing", "--to", "end", "--reset-state", "--execute")
    assert timed.run("pending", "list", "billing", "--json").json["timers"] == []
    timed.run("worker", "--burst", "--final")
    assert "in time" not in fired(timed)


def test_a_renamed_handler_keeps_them_and_one_without_their_function_does_not_start(timed: Folder) -> None:
    app = Path(timed.path / "app.py")
    app.write_text(TIMED.replace("app.order", "app.other"))
    timed.run("groups", "rename-handler", "billing", "app.order", "app.other", "--execute")
    timed.run("worker", "--burst", "--final")
    assert fired(timed).count("in time") == 2
    app.write_text(app.read_text().replace("@stream.on_timer(order)", ""))
    refused = timed.pspf("worker", "--burst", "--in-process")
    assert refused.code != 0
    assert "has set timers" in refused.err
    assert "@stream.on_timer(other)" in refused.err


def test_a_deleted_group_has_none(timed: Folder) -> None:
    timed.run("groups", "delete", "billing", "--execute")
    timed.run("worker", "--burst", "--final")
    assert fired(timed).count("in time") == 2, "the records are read anew, and nothing is left of before"

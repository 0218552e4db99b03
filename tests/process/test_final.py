"""The end of the input: `pspf worker --burst --final` closes what is open, from upstream to downstream."""

import json
from collections.abc import Iterable
from typing import Any

from tests.process.commands import Folder, wait_until

APP = """
import asyncio
from pspf import BaseEvent, Context, Count, SessionWindow, Stream, Sum, TumblingWindow

stream = Stream(topic="bids", group="g")


class Total(BaseEvent):
    window_start_ms: int
    value: int


@stream.subscribe("totals", name="relay")
async def relay(total: Total, ctx: Context) -> None:
    if total.window_start_ms == 130_000 and total.key == "k0":
        await asyncio.sleep(1)  # whoever does not wait for it closes its windows too early
    ctx.emit({"timestamp": total.window_start_ms / 1000, "n": total.value}, topic="relayed", key=total.key)


stream.window("bids", TumblingWindow(10_000), emit="final", to="totals", name="tens")(Count())
stream.window("relayed", TumblingWindow(60_000), 100, 10**9, emit="final", to="minutes", name="minutes")(Sum("n"))
stream.window("bids", SessionWindow(2_000), emit="final", to="sessions", name="sessions")(Count())
"""
BIDS = [{"timestamp": second, "key": f"k{second % 7}"} for second in range(140)]


def make(folder: Folder) -> None:
    (folder.path / "app.py").write_text(APP)
    (folder.path / "bids.ndjson").write_text("\n".join(map(json.dumps, BIDS)))
    folder.ok("topics", "create", "bids", "--partitions", "3")
    folder.ok("topics", "create", "relayed", "--partitions", "2")
    folder.ok("emit", "bids", "@bids.ndjson")


def results(folder: Folder, topic: str) -> list[dict[str, Any]]:
    return [line["event"] for line in folder.ok("tail", topic, "--jsonl").json_lines]


def is_done(folder: Folder) -> bool:
    """Whether all bids are handled."""
    groups = folder.ok("groups", "inspect", "--json").json["groups"]
    return len(groups) == 2 and all(group["lag"] == 0 for group in groups)


def sums(events: Iterable[dict[str, Any]]) -> dict[int, int]:
    """Return what the windows of all keys come to, by their start in seconds."""
    by_start: dict[int, int] = {}
    for event in events:
        start = event["window_start_ms"] // 1000
        by_start[start] = by_start.get(start, 0) + event["value"]
    return dict(sorted(by_start.items()))


def test_all_windows_are_closed_across_processes_each_after_those_it_gets_results_of(folder: Folder) -> None:
    make(folder)
    ended = folder.run("worker", "--burst", "--final", "-w", "bids=2,relayed=2")
    assert "handled 476, failed 0, dead 0, lag 0" in ended.err
    assert sums(results(folder, "totals")) == dict.fromkeys(range(0, 140, 10), 10)
    assert sums(results(folder, "minutes")) == {0: 60, 60: 60, 120: 20}
    assert len(results(folder, "sessions")) == 140
    # W is raised to the largest closing time, and no further: what comes behind it is not late.
    partitions = folder.ok("groups", "inspect", "--json").json["groups"]
    marks = {p["watermark_ms"] for g in partitions if g["handler"] == "tens" for p in g["partitions"]}
    assert marks == {140_000}

    # In one process, with nothing new but a late record and one behind the windows that were closed.
    folder.ok("emit", "bids", '{"timestamp": 139, "key": "k1"}')
    folder.ok("emit", "bids", '{"timestamp": 140, "key": "k1"}')
    folder.run("worker", "--burst", "--final", "--in-process")
    assert sums(results(folder, "totals")) == {**dict.fromkeys(range(0, 140, 10), 10), 140: 1}
    assert sums(results(folder, "minutes")) == {0: 60, 60: 60, 120: 20}
    assert len(folder.ok("tail", "relayed-late", "--jsonl").json_lines) == 1


def test_windows_in_the_hands_of_a_worker_that_goes_on_are_waited_for(folder: Folder) -> None:
    make(folder)
    with folder.worker("--only", "bids") as running:
        running.wait_for("processes: 1")
        wait_until(lambda: is_done(folder))
        ended = folder.pspf("worker", "--only", "bids", "--burst", "--final", "--burst-timeout", "2s")
        assert ended.code == 9
        assert sum(event["value"] for event in results(folder, "totals")) < 140
    ended = folder.run("worker", "--only", "bids", "--burst", "--final")
    assert sum(event["value"] for event in results(folder, "totals")) == 140

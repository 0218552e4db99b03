"""`pspf windows` and windows in `pspf state`, from the command line."""

import pytest

from tests.process.commands import Folder

APP = """
from pspf import Count, Max, Stream, TumblingWindow

stream = Stream(topic="bids", group="g")
window = TumblingWindow(10_000)
stream.window("bids", window, emit="final", to="hot", name="app.hot")({"n": Count(), "top": Max("price")})
"""
BIDS = "\n".join(
    f'{{"key": "{key}", "price": {price}, "timestamp": {1_517_966_570 + at}}}'
    for key, price, at in (("a", 1, 1), ("a", 2, 12), ("b", 3, 13))
)
HOT = {
    "group": "g",
    "topic": "bids",
    "handler": "app.hot",
    "partition": 0,
    "window": "tumbling 10s",
    "watermark_ms": 1_517_966_583_000,
}
TIMES = {"start_ms": 1_517_966_580_000, "end_ms": 1_517_966_590_000, "open": True}


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder whose broker has two open windows, and one that is closed; tests only look."""
    folder = Folder(tmp_path_factory.mktemp("bids"))
    (folder.path / "app.py").write_text(APP)
    (folder.path / "bids.ndjson").write_text(BIDS)
    folder.ok("emit", "bids", "@bids.ndjson")
    folder.run("worker", "--burst", "--in-process")
    return folder


def test_open_windows_are_listed_with_their_watermark(bids: Folder) -> None:
    listed = bids.ok("windows", "list", "--json").json
    a = {**HOT, "key": "a", **TIMES, "value": {"n": 1, "top": 2}}
    b = {**HOT, "key": "b", **TIMES, "value": {"n": 1, "top": 3}}
    assert listed == {"windows": [a, b], "cursors": [HOT], "more": False}
    for narrow in (("--handler", "hot"), ("--topic", "bids"), ("--group", "g")):
        assert bids.ok("windows", "list", *narrow, "--key", "b", "--json").json["windows"] == [b]
    some = bids.ok("windows", "list", "-n", "1", "--json")
    assert (some.json["windows"], some.json["more"]) == ([a], True)
    assert "-n N for more" in some.err


def test_people_get_a_table_and_are_told_where_there_is_nothing(bids: Folder) -> None:
    lines = bids.ok("windows", "list").out.splitlines()
    assert lines[0].split() == ["HANDLER", "PARTITION", "KEY", "START", "END", "WATERMARK", "VALUE"]
    assert lines[1].split()[-2:] == ["2018-02-07T01:23:03.000Z", '{"n":1,"top":2}']
    nobody = bids.ok("windows", "list", "--key", "nobody")
    assert "no open windows" in nobody.err
    assert "watermark 2018-02-07T01:23:03.000Z" in nobody.err
    missing = bids.look("windows", "list", "--handler", "hut")
    assert missing.code == 6
    assert "app.hot" in missing.err


def test_open_windows_are_among_what_handlers_remember(bids: Folder) -> None:
    interval = "2018-02-07T01:23:00.000Z/2018-02-07T01:23:10.000Z"
    dumped = bids.ok("state", "dump").json_lines
    assert [(entry["key"], entry["name"], entry["value"]["top"]) for entry in dumped] == [
        ("a", interval, 2),
        ("b", interval, 3),
    ]
    assert bids.ok("state", "list", "--json").json == {"state": dumped}
    assert bids.ok("state", "get", "hot", "b").json == {"n": 1, "top": 3}
    assert bids.ok("state", "get", "hot", "b", "2018-02-07T01:23:00.000Z").json == {"n": 1, "top": 3}
    assert "did you mean" in bids.look("state", "get", "hot", "b", "2018-02-07T01:23:10.000Z").err

"""A worker whose app has other windows than the broker."""

import pytest

from tests.process.commands import Folder

APP = """
from pspf import BaseEvent, Count, Stream, Sum, TumblingWindow

stream = Stream(topic="bids", group="g")
stream.window("bids", TumblingWindow({size}), emit="final", to="hot", name="hot", {key})({fold})


@stream.subscribe("orders")
async def beside(event: BaseEvent) -> None: ...
"""


@pytest.mark.parametrize(
    "change",
    [{"size": "120_000"}, {"fold": "Sum('price')"}, {"key": "key='colour'"}],
    ids=["size", "aggregation", "key"],
)
@pytest.mark.parametrize("mode", [(), ("--burst",), ("--in-process",)], ids=["worker", "burst", "in process"])
def test_a_worker_does_not_start_with_other_windows_under_the_same_name(
    folder: Folder, change: dict[str, str], mode: tuple[str, ...]
) -> None:
    same = {"size": "10_000", "fold": "Count()", "key": ""}
    (folder.path / "app.py").write_text(APP.format(**same))
    folder.ok("topics", "create", "bids", "--partitions", "2")
    folder.ok("emit", "bids", '{"key": "a", "price": 1, "timestamp": 1}')
    folder.run("worker", "--burst", "--in-process")
    (folder.path / "app.py").write_text(APP.format(**{**same, **change}))
    ended = folder.pspf("worker", *mode)
    assert ended.code == 2
    assert "another name=" in ended.err
    assert len(ended.err.splitlines()) < 20

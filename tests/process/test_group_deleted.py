"""A group that is deleted while its workers run: they start over on every broker, and nobody is told anything else."""

import json
import signal
from pathlib import Path

import pytest

from tests.process.commands import Folder
from tests.support.servers import hall

APP = """
from pspf import Context, Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders", ordering="key", name="app.total")
async def total(order: dict, ctx: Context):
    count = await ctx.state.get("count", 0) + 1
    await ctx.state.put("count", count)
    print("total", order["n"], "is number", count)


@stream.subscribe("orders", group="audit")
async def audit(order: dict):
    print("audit", order["n"])
"""


@pytest.mark.parametrize("kind", ["sqlite", "valkey", "redis"])
@pytest.mark.parametrize(("group", "said"), [("billing", "total 1 is number 1"), ("audit", "audit 1")])
def test_workers_of_a_deleted_group_begin_anew(
    folder: Folder, tmp_path: Path, kind: str, group: str, said: str
) -> None:
    if kind != "sqlite":
        shared = hall(kind)
        folder.environment["PSPF_BACKEND"] = shared.server.url(database=shared.database_of(tmp_path))
    (folder.path / "counts.py").write_text(APP)
    folder.run("emit", "orders", json.dumps({"n": 1, "key": "k"}))
    with folder.worker("counts:stream", "--admin", "off") as worker:
        worker.wait_for(said)
        deleted = folder.run("groups", "delete", group, "--force", "--execute")
        assert "1 worker of it ran: they start over" in deleted.err
        worker.wait_for(said, times=2)
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert not worker.says("the stream of")
        assert not worker.says(": its stream was deleted")

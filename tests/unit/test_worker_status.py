"""A worker's status across processes and versions: what is written is read, whatever the other side knows."""

import ast
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.admin.answers import STATUS
from pspf.cli.services.roster import find_targets, read_workers, remarks_on
from pspf.connectors.memory import MemoryBackend
from pspf.errors import StatusUnreadable
from pspf.observability.worker_status import (
    HANDLING,
    UNKNOWN,
    BatchStatus,
    HandlerStatus,
    ProcessStatus,
    ShownWorker,
    WorkerStatus,
)
from tests.unit.test_house import ROOT, sources

KINDS = (BatchStatus, HandlerStatus, ProcessStatus, WorkerStatus, ShownWorker)
RATES = st.floats(allow_nan=False, allow_infinity=False)
BATCHES = st.builds(BatchStatus, for_ms=st.integers(0), ids=st.lists(st.text()).map(tuple))
HANDLERS = st.builds(HandlerStatus, partitions=st.lists(st.integers()).map(tuple), rate=RATES)
PROCESSES = st.builds(
    ProcessStatus,
    pid=st.none() | st.integers(),
    why=st.none() | st.text(),
    busy=st.lists(BATCHES, max_size=3).map(tuple),
    waiting=st.lists(BATCHES, max_size=3).map(tuple),
    subscriptions=st.lists(HANDLERS, max_size=3).map(tuple),
)
STATUSES = st.builds(
    WorkerStatus, why=st.lists(st.text()).map(tuple), processes=st.lists(PROCESSES, max_size=3).map(tuple)
)
ANSWERS = st.dictionaries(st.text(), st.dictionaries(st.text(), st.text() | st.dictionaries(st.text(), st.text())))
WORKERS = st.builds(ShownWorker, host=st.none() | st.text(), answers=ANSWERS, status=STATUSES)

SHOWN = ShownWorker(
    "host-1",
    "host",
    1,
    "app:stream",
    status=WorkerStatus(
        "running",
        ready=True,
        processes=(
            ProcessStatus(
                "orders/billing#0",
                12,
                "host-12",
                "running",
                busy=(BatchStatus("orders", "billing", "app.total", 0, 5, 70_000, ids=("7",)),),
                subscriptions=(HandlerStatus("orders", "billing", "app.total", (0, 1), 7, rate=2.5),),
            ),
        ),
    ),
)


@given(WORKERS)
def test_a_worker_comes_back_from_json_as_it_was(worker: ShownWorker) -> None:
    assert ShownWorker.from_fields(json.loads(json.dumps(worker.as_fields()))) == worker


@given(WORKERS)
def test_fields_are_json_s_own_types(worker: ShownWorker) -> None:
    fields = worker.as_fields()
    assert json.loads(json.dumps(fields)) == fields


def without(value: Any, name: str) -> Any:
    """Return decoded fields without those called `name`, at any depth."""
    if isinstance(value, dict):
        return {key: without(each, name) for key, each in value.items() if key != name}
    return [without(each, name) for each in value] if isinstance(value, list) else value


def with_more(value: Any) -> Any:
    """Return decoded fields with one more in each object; answers are by id and have none."""
    if isinstance(value, dict):
        known = {key: each if key == "answers" else with_more(each) for key, each in value.items()}
        return {**known, "of_a_newer_version": {"a": [1]}}
    return [with_more(each) for each in value] if isinstance(value, list) else value


NAMES = sorted({field.name for kind in KINDS for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("name", NAMES)
def test_an_older_worker_s_status_without_a_field_is_read(name: str) -> None:
    found = ShownWorker.from_fields(without(SHOWN.as_fields(), name))
    assert without(found.as_fields(), name) == without(SHOWN.as_fields(), name)


def test_an_empty_status_has_all_defaults() -> None:
    assert ShownWorker.from_fields({}) == ShownWorker()
    assert ProcessStatus.from_fields({}).state == UNKNOWN
    assert BatchStatus.from_fields({}).state == HANDLING


def test_a_newer_worker_s_status_is_read_without_what_is_new() -> None:
    assert ShownWorker.from_fields(with_more(SHOWN.as_fields())) == SHOWN


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"processes": [{}, {"pid": "12"}]}, "processes[1].pid is '12', not of type int"),
        ({"processes": [{"pid": True}]}, "processes[0].pid is True, not of type int"),
        ({"processes": [{"busy": [{"for_ms": 1.5}]}]}, "processes[0].busy[0].for_ms is 1.5, not of type int"),
        ({"processes": [{"subscriptions": [{"rate": None}]}]}, "processes[0].subscriptions[0].rate is None"),
        ({"processes": {}}, "processes is {}, not a list"),
        ({"processes": [7]}, "processes[0] is 7, not an object"),
        ({"ready": 1}, "ready is 1, not of type bool"),
        ({"why": "x"}, "why is 'x', not a list"),
        ({"answers": [1]}, "answers is [1], not an object"),
        ([], "is [], not an object"),
    ],
)
def test_a_field_of_another_type_is_named(fields: Any, message: str) -> None:
    with pytest.raises(StatusUnreadable) as raised:
        ShownWorker.from_fields(fields)
    assert message in str(raised.value)


@pytest.mark.parametrize("status", [b"no json", b"[]", b'{"processes": [{"pid": "x"}]}', b'{"worker": "x'])
async def test_a_worker_whose_status_can_not_be_read_is_shown_and_can_be_told_to_stop(status: bytes) -> None:
    async with MemoryBackend().broker as broker:
        await broker.roster.publish("odd", status, ttl_ms=60_000)
        await broker.roster.publish("plain", json.dumps(SHOWN.as_fields()).encode(), ttl_ms=60_000)
        workers = await read_workers(broker)
    assert [worker.worker for worker in workers] == ["odd", "plain"]
    assert [target.worker for target in find_targets(workers, ["odd"])] == ["odd"]
    assert "odd: another version wrote its status, which can't be read: " in remarks_on(workers)[0]


def test_the_admin_s_description_has_the_fields_of_a_status() -> None:
    assert STATUS.keys() > {field.name for field in dataclasses.fields(WorkerStatus)}
    (process,) = STATUS["processes"]
    assert process.keys() == ProcessStatus().as_fields().keys()
    assert process["subscriptions"] == [
        {
            "topic": str,
            "group": str,
            "handler": str,
            "partitions": [int],
            "processed": int,
            "failed": int,
            "dead": int,
            "rate": float,
            "last_commit_ms": process["subscriptions"][0]["last_commit_ms"],
            "topics": [str],
        }
    ]


HOME = "pspf/observability/worker_status.py"
OTHERS = {"ids", "app", "topic", "group", "handler", "partition", "records", "worker", "pid", "error", "process", "why"}
"""Names that answers, commands and messages of other kinds have, too."""


def read_keys(tree: ast.Module) -> set[str]:
    """Return the constant keys that a module reads: `x["key"]` and `x.get("key")`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(slice=ast.Constant(value=str(key)), ctx=ast.Load()):
                found.add(key)
            case ast.Call(func=ast.Attribute(attr="get" | "pop"), args=[ast.Constant(value=str(key)), *_]):
                found.add(key)
    return found


def test_a_status_is_read_by_string_keys_nowhere() -> None:
    names = set(NAMES) - OTHERS
    assert {"busy", "processes", "state", "ready", "answers", "place"} <= names
    reading = {
        f"{path}: {', '.join(sorted(found))}"
        for path, tree in sources("pspf/runtime", "pspf/admin", "pspf/cli", "pspf/observability")
        if path.as_posix() != HOME and (found := read_keys(tree) & names)
    }
    assert reading == set()


def test_the_walk_finds_what_it_looks_for() -> None:
    assert read_keys(ast.parse('a["x"]; b.get("y", 1); c["z"] = 2')) == {"x", "y"}
    assert (ROOT / HOME).exists()

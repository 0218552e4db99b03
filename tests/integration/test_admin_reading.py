"""What the admin says of a worker and of its broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from pspf.admin.answers import DEAD_LETTER
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.views import LetterFilter
from pspf.observability.worker_status import BatchStatus
from pspf.records import Cursor
from tests.integration.admin import AUDIT, SNAPSHOT, SPEC, TOTAL, admin, on
from tests.integration.running import wait_until
from tests.support.brokers import KINDS, Kind
from tests.support.shapes import misfits
from tests.support.workers import letter, new, numbered, own, settle, share, take_all

REMOTE = [kind for kind in KINDS if kind.is_shared]


@pytest_asyncio.fixture(params=REMOTE, ids=lambda kind: kind.name)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that other processes see."""
    kind = request.param
    assert isinstance(kind, Kind)
    async with kind.make(tmp_path, Limits(synchronous="NORMAL"), None) as made:
        yield made


async def fail_two_of(broker: Broker, count: int) -> None:
    """Append orders, and handle them in `app.total`, which gives up the first two and remembers the number."""
    await broker.append("orders", numbered(count, keys=["a", "b"]))
    member = await own(broker, topic="orders", group="billing", handler="app.total")
    records = await take_all(member.consumer)
    dead = [letter(record, handler="app.total", group="billing", at_ms=n) for n, record in enumerate(records[:2])]
    state = {(b"a", "count"): b"7", (b"b", "count"): b"8"}
    commit = settle(records[2:], dead=dead, state=state, position=records[-1].offset + 1)
    await member.consumer.commit(commit)
    await member.session.close()


async def test_a_worker_that_reports_is_alive_and_ready() -> None:
    async with admin() as it:
        assert (await it.get("/health")).json["status"] == "ok"
        assert (await it.get("/ready")).json == {"ready": True, "state": "running", "why": []}


async def test_a_worker_that_does_not_get_on_is_alive_and_not_ready() -> None:
    stuck = replace(SNAPSHOT.status, ready=False, why=("orders/billing is crashing",))
    async with admin(snapshot=replace(SNAPSHOT, status=stuck)) as it:
        assert (await it.get("/health")).status == 200
        answer = await it.get("/ready")
        assert (answer.status, answer.json["why"]) == (503, ["orders/billing is crashing"])


async def test_a_slow_handler_keeps_it_ready_and_shows() -> None:
    batch = BatchStatus("orders", "billing", "app.total", records=1, for_ms=600_000)
    busy = batch.as_fields()
    process = replace(SNAPSHOT.status.processes[0], busy=(batch,))
    async with admin(snapshot=replace(SNAPSHOT, status=replace(SNAPSHOT.status, processes=(process,)))) as it:
        assert (await it.get("/ready")).status == 200
        assert (await it.get("/status")).json["processes"][0]["busy"] == [busy]
        assert (await it.get("/topology")).json["handlers"][0]["busy_ms"] == 600_000


async def test_a_worker_that_is_silent_is_neither_alive_nor_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.admin.link.SILENT_MS", 0)
    async with admin() as it:
        assert (await it.get("/health")).status == 503
        assert (await it.get("/ready")).status == 503
        assert b"\npspf_up 0.0" in (await it.get("/metrics")).body


async def test_before_the_worker_s_first_word_only_probes_and_metrics_say_so() -> None:
    async with admin(snapshot=None) as it:
        assert (await it.get("/health")).status == 503
        assert (await it.get("/status")).status == 503
        assert b"\npspf_up 0.0" in (await it.get("/metrics")).body


async def test_status_is_what_the_worker_says_and_no_secret() -> None:
    async with admin(replace(SPEC, backend=None)) as it:
        answer = await it.get("/status")
        assert answer.json["worker"] == SPEC.worker
        assert answer.json["processes"] == SNAPSHOT.status.as_fields()["processes"]
        assert SPEC.token not in answer.text


async def test_the_topology_joins_topics_to_handlers() -> None:
    async with admin() as it:
        found = (await it.get("/topology")).json
        assert [(topic["topic"], topic["role"]) for topic in found["topics"]] == [
            ("orders", "source"),
            ("large", "output"),
            ("orders-dlq", "dlq"),
        ]
        total = found["handlers"][0]
        assert (total["handler"], total["emits"], total["rate"], total["processed"]) == ("app.total", ["large"], 2.5, 7)


async def test_lag_is_that_of_the_app_s_groups_in_records_and_seconds(broker: Broker) -> None:
    await broker.append("orders", [new("1", "a", timestamp_ms=1_000), new("2", "b"), new("3", "a")])
    member = await own(broker, topic="orders", group="billing", handler="app.total")
    other = await share(broker, topic="orders", group="elsewhere")
    records = await take_all(member.consumer)
    async with admin(on(broker.secret_url, broker.name)) as it:
        (group,) = (await it.get("/lag")).json["groups"]
        assert (group["group"], group["handler"], group["lag"]) == ("billing", "app.total", 3)
        assert group["lag_seconds"] > 1_000_000
        await member.consumer.commit(settle(records, position=records[-1].offset + 1))

        async def is_done() -> bool:
            found = (await it.get("/lag?group=billing")).json
            return (found["lag"], found["lag_seconds"]) == (0, 0.0)

        await wait_until(is_done, within_ms=20_000)
    await member.session.close()
    await other.session.close()


async def test_state_is_found_by_the_last_part_of_a_handler_s_name(broker: Broker) -> None:
    await fail_two_of(broker, 4)
    async with admin(on(broker.secret_url, broker.name)) as it:
        (entry,) = (await it.get("/state/total?key=a")).json["state"]
        assert (entry["handler"], entry["key"], entry["name"], entry["value"]) == ("app.total", "a", "count", 7)
        assert len((await it.get("/state/app.total")).json["state"]) == 2
        assert (await it.get("/state/app.total?limit=1")).json["truncated"]
        assert (await it.get("/state/nobody")).status == 404


async def test_dead_letters_are_listed_shown_and_replayed(broker: Broker) -> None:
    await fail_two_of(broker, 4)
    async with admin(on(broker.secret_url, broker.name)) as it:
        found = (await it.get("/dlq?topic=orders")).json
        assert (found["total"], found["by_error"][0]["count"]) == (2, 2)
        newest = found["dead_letters"][0]
        assert (newest["handler"], newest["error_type"]) == ("app.total", "ValueError")
        whole = (await it.get(f"/dlq/orders/{newest['id']}")).json
        assert (whole["event"], whole["key"], whole["traceback"]) == (1, "b", "Traceback: line 1")
        assert misfits(DEAD_LETTER, whole) == []
        assert (await it.post("/dlq/replay", topic="orders", ids=[newest["id"]])).json == {"replayed": 1, "left": 0}
        assert (await it.get("/dlq")).json["total"] == 1
        assert (await it.get(f"/dlq/orders/{newest['id']}")).status == 404
    cursors = await broker.list_cursors(group="billing")
    assert sum(info.retries for info in cursors if info.cursor == Cursor("orders", "billing", "app.total", 0)) == 1


async def test_trimmed_dead_letters_are_replayed_for_their_group_alone(broker: Broker) -> None:
    await fail_two_of(broker, 4)
    gone = await own(broker, topic="orders", group="gone", handler="app.total")
    batch = await gone.consumer.poll(max_records=10, timeout_ms=0)
    dead = letter(batch.records[0], handler="app.total", group="gone", at_ms=9)
    await gone.consumer.commit(settle(batch.records[1:], dead=[dead], position=batch.end))
    await gone.session.close()
    await broker.operations.delete_group("gone", force=True)
    await broker.operations.trim("orders", 0, max_records=0)
    async with admin(on(broker.secret_url, broker.name)) as it:
        assert (await it.post("/dlq/replay", all=True)).json == {"replayed": 2, "left": 1}
        assert (await it.get("/dlq")).json["total"] == 1
    assert await broker.read("orders", 0, offset=0, max_records=10) == []
    assert [info.lag for info in await broker.list_cursors(topic="orders")] == [2]


async def test_of_many_dead_letters_the_newest_are_listed_and_all_are_counted(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pspf.admin.letters.MAX_LISTED", 3)
    monkeypatch.setattr("pspf.admin.letters._PAGE", 4)
    await broker.append("orders", numbered(10))
    member = await own(broker, topic="orders", group="billing", handler="app.total")
    records = await take_all(member.consumer)
    dead = [letter(record, handler="app.total", group="billing", at_ms=n) for n, record in enumerate(records)]
    await member.consumer.commit(settle([], dead=dead, position=records[-1].offset + 1))
    await member.session.close()
    async with admin(on(broker.secret_url, broker.name)) as it:
        found = (await it.get("/dlq")).json
        assert (found["total"], found["by_error"][0]["count"]) == (10, 10)
        assert [each["dead_at_ms"] for each in found["dead_letters"]] == [9, 8, 7]
        assert (await it.get("/dlq?group=another")).json["total"] == 0
        desk = it.desk.broker
        one, other = await asyncio.gather(
            desk.read_digest(LetterFilter("orders")), desk.read_digest(LetterFilter("orders"))
        )
        assert one is other


async def test_a_dead_letter_that_there_is_not_is_404(broker: Broker) -> None:
    await fail_two_of(broker, 4)
    async with admin(on(broker.secret_url, broker.name)) as it:
        for path in ("orders/99", "orders/9:1", "orders/99999999999999999999", "nowhere/1", "orders-dlq/99"):
            assert (await it.get(f"/dlq/{path}")).status == 404
        assert (await it.get("/dlq/orders/x")).status == 400


async def test_a_replay_says_which_or_all(broker: Broker) -> None:
    await fail_two_of(broker, 4)
    async with admin(on(broker.secret_url, broker.name)) as it:
        assert (await it.post("/dlq/replay")).status == 400
        assert (await it.post("/dlq/replay", topc="orders")).status == 400
        assert (await it.post("/dlq/replay", ids=["x"])).status == 400
        assert (await it.post("/dlq/replay", topic="nowhere")).status == 404
        assert (await it.post("/dlq/replay", error="KeyError")).json == {"replayed": 0, "left": 0}
        assert (await it.post("/dlq/replay", all=True, to="elsewhere")).json == {"replayed": 2, "left": 0}
    assert {info.topic for info in await broker.list_topics()} >= {"elsewhere"}


async def test_a_broker_that_is_away_is_503_and_the_metrics_say_so() -> None:
    async with admin(on("valkey://user:a-secret@127.0.0.1:1", "valkey://user@127.0.0.1:1/0")) as it:
        for path in ("/lag", "/dlq", "/state/total"):
            answer = await it.get(path)
            assert answer.status == 503
            assert "127.0.0.1:1" in answer.json["error"]
            assert "a-secret" not in answer.text
        scraped = (await it.get("/metrics")).text
        assert "\npspf_broker_up 0.0" in scraped
        assert "pspf_lag_events{" not in scraped
        assert "\npspf_up 1.0" in scraped
        assert (await it.get("/status")).json["broker"]["connected"] is False
        assert (await it.get("/topology")).status == 200


async def test_while_the_broker_is_away_no_worker_is_ready_and_all_live() -> None:
    async with admin(on("valkey://user:a-secret@127.0.0.1:1", "valkey://user@127.0.0.1:1/0")) as it:
        answer = await it.get("/ready")
        assert (answer.status, answer.json["ready"]) == (503, False)
        assert "the broker does not answer" in answer.json["why"][0]
        assert "a-secret" not in answer.text
        assert (await it.get("/health")).status == 200


async def test_a_worker_whose_broker_answers_is_ready(broker: Broker) -> None:
    async with admin(on(broker.secret_url, broker.name)) as it:
        assert (await it.get("/ready")).json == {"ready": True, "state": "running", "why": []}


async def test_asks_that_come_together_wait_once_for_a_broker_that_is_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.admin.broker._ANSWER_S", 2.0)
    callers: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda reader, writer: callers.append(writer), "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    async with admin(on(f"valkey://127.0.0.1:{port}", "valkey://mute")) as it:
        answers = await asyncio.gather(*(it.get("/lag") for _ in range(5)))
        assert {answer.status for answer in answers} == {503}
        assert len(callers) == 1
    for writer in callers:
        writer.close()
    mute.close()


async def test_a_broker_inside_the_worker_can_not_be_seen_from_here() -> None:
    async with admin() as it:
        answer = await it.get("/lag")
        assert (answer.status, "memory://" in answer.json["error"]) == (409, True)


@pytest.mark.parametrize("do", ["pause", "resume", "drain"])
async def test_what_the_worker_is_told_and_answers(do: str) -> None:
    async with admin() as it:
        answer, command = await asyncio.gather(it.post(f"/{do}", process="orders/billing#0"), it.answer_with(ok="done"))
        assert answer.json == {"ok": "done"}
        assert (command["do"], command["process"]) == ({"drain": "stop"}.get(do, do), "orders/billing#0")


async def test_a_process_that_there_is_not_is_404_and_the_worker_is_not_told() -> None:
    async with admin() as it:
        for path in ("/pause", "/resume", "/drain"):
            answer = await it.post(path, process="orders/billing#9")
            assert (answer.status, "orders/billing#0" in answer.json["error"]) == (404, True)
        told, command = await asyncio.gather(it.post("/pause", process="host-12-def"), it.answer_with(ok="paused"))
        assert (told.status, command["process"]) == (200, "host-12-def")


async def test_what_the_worker_can_not_do_is_409() -> None:
    async with admin() as it:
        answer, _ = await asyncio.gather(it.post("/pause"), it.answer_with(error="not with --in-process"))
        assert (answer.status, answer.json) == (409, {"error": "not with --in-process"})


async def test_the_log_level_is_checked_and_passed_on() -> None:
    async with admin() as it:
        assert (await it.post("/log-level", level="LOUD")).status == 400
        _, command = await asyncio.gather(it.post("/log-level", level="debug"), it.answer_with(ok="DEBUG"))
        assert (command["do"], command["level"]) == ("log-level", "DEBUG")


async def test_the_lag_of_what_the_app_does_not_have_is_404_and_not_0(tmp_path: Path) -> None:
    async with SQLiteBroker(tmp_path / "broker.db") as broker, admin(on(broker.secret_url, broker.name)) as it:
        assert (await it.get("/lag?group=billing&topic=orders")).json["lag"] == 0  # nobody has begun to read
        for query, there in (("group=biling", "audit, billing"), ("topic=order", "orders")):
            answer = await it.get(f"/lag?{query}")
            assert (answer.status, there in answer.json["error"]) == (404, True)


async def test_a_parameter_that_is_unknown_or_there_twice_is_400() -> None:
    async with admin() as it:
        for target in ("/lag?groups=a", "/dlq?limit=1&limit=2", "/state/total?keys=a", "/status?x=1"):
            assert (await it.get(target)).status == 400
        for target in ("/health?x=1", "/ready?x=1", "/metrics?x=1"):
            assert (await it.get(target)).status == 200


async def test_the_documents_name_every_endpoint() -> None:
    async with admin() as it:
        document, page = (await it.get("/openapi.json")).json, (await it.get("/docs")).text
        assert document["openapi"].startswith("3.1")
        for path, operations in document["paths"].items():
            assert path in page
            for operation in operations.values():
                assert operation["summary"]
                (answer,) = operation["responses"]["200"]["content"].values()
                assert (answer.get("schema") is None) == (path == "/metrics")
        assert {"/health", "/lag", "/dlq/replay", "/state/{handler}"} <= set(document["paths"])


async def test_the_page_comes_with_all_that_it_needs() -> None:
    async with admin() as it:
        page = await it.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for name in {part.split('"')[0] for part in page.text.split('"/dashboard/')[1:]}:
            assert (await it.get(f"/dashboard/{name}")).status == 200


async def test_a_shape_tells_which_cursors_are_its_own(tmp_path: Path) -> None:
    assert (TOTAL.cursor_handler, AUDIT.cursor_handler) == ("app.total", None)
    async with SQLiteBroker(tmp_path / "broker.db") as broker:
        await broker.append("orders", [new("1", "a")])
        member = await share(broker, topic="orders", group="audit")
        async with admin(on(broker.secret_url, broker.name)) as it:
            scraped = (await it.get("/metrics")).text
            assert 'pspf_lag_events{group="audit",handler="app.audit",topic="orders"} 1.0' in scraped
        await member.session.close()


async def test_the_topic_between_a_handler_s_records_and_its_windows_is_part_of_the_lag(tmp_path: Path) -> None:
    windowed = replace(TOTAL, window="tumbling 10s")
    async with SQLiteBroker(tmp_path / "broker.db") as broker:
        await broker.append("orders", [new("1", "a")])
        await broker.append("billing.app.total.repartition", [new("1", "a"), new("2", "a")])
        members = [
            await own(broker, topic=topic, group="billing", handler="app.total")
            for topic in ("orders", "billing.app.total.repartition")
        ]
        async with admin(on(broker.secret_url, broker.name), replace(SNAPSHOT, handlers=(windowed,))) as it:
            assert (await it.get("/lag")).json["lag"] == 3
        for member in members:
            await member.session.close()


async def test_lag_in_seconds_is_the_age_of_the_oldest_record_that_is_not_done(broker: Broker) -> None:
    """The one before it, which is done, may be from last year."""
    now_ms = time.time_ns() // 1_000_000
    await broker.append("orders", [new("1", "a", timestamp_ms=1_000), new("2", "a", timestamp_ms=now_ms - 50_000)])
    member = await own(broker, topic="orders", group="billing", handler="app.total")
    records = await take_all(member.consumer)
    await member.consumer.commit(settle(records[:1], position=records[1].offset))
    async with admin(on(broker.secret_url, broker.name)) as it:
        (group,) = (await it.get("/lag")).json["groups"]
        assert group["lag"] == 1
        assert 50 <= group["lag_seconds"] < 1_000
    await member.session.close()


async def test_a_replay_is_seen_at_once_by_who_has_just_looked(broker: Broker) -> None:
    await fail_two_of(broker, 4)
    async with admin(on(broker.secret_url, broker.name)) as it:
        assert ((await it.get("/lag")).json["groups"][0]["lag"], (await it.get("/dlq")).json["total"]) == (0, 2)
        assert (await it.post("/dlq/replay", all=True)).json == {"replayed": 2, "left": 0}
        assert ((await it.get("/lag")).json["groups"][0]["lag"], (await it.get("/dlq")).json["total"]) == (2, 0)

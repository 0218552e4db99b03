"""`pspf worker` over HTTP: a process of its own beside the worker's, which it never holds up."""

import http.client
import json
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.process.commands import Folder, Running, is_running, name_of, wait_until
from tests.support.shapes import misfits, shape_of

ANY = ("--admin", "127.0.0.1:0")
LINE = re.compile(r"dashboard: http://([^:/]+):(\d+)/(?:#token=(\S+))?")


@dataclass(frozen=True)
class Client:
    """Asks a worker's admin."""

    host: str
    port: int
    token: str

    def ask(self, method: str, path: str, *, port: int | None = None, **fields: Any) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, port or self.port, timeout=30)
        try:
            connection.request(
                method, path, json.dumps(fields) if fields else None, {"Authorization": f"Bearer {self.token}"}
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the JSON of something that is to be there."""
        status, body = self.ask("GET", path)
        return self._read("GET", path, status, body)

    def post(self, path: str, **fields: Any) -> Any:
        """Do something that is to work."""
        status, body = self.ask("POST", path, **fields)
        return self._read("POST", path, status, body)

    def _read(self, method: str, path: str, status: int, body: str) -> Any:
        assert status == 200, body
        answer = json.loads(body)
        assert misfits(shape_of(method, path), answer) == []
        return answer

    def sums(self, metric: str, **labels: str) -> float:
        """Return the sum of the series of a metric that have these labels."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.ask("GET", "/metrics")[1])
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        ]
        assert found, metric
        return sum(found)

    def series(self) -> set[str]:
        """Return the names and labels of all series."""
        lines = self.ask("GET", "/metrics")[1].splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def client_of(worker: Running, token: str | None = None) -> Client:
    """Return who asks the admin that a worker's first lines name, once it answers."""
    worker.wait_for("dashboard: ")
    match = LINE.search(worker.log.read_text())
    assert match is not None
    client = Client(match[1], int(match[2]), token or match[3])

    def answers() -> bool:
        try:
            return client.ask("GET", "/ready")[0] == 200
        except OSError:
            return False

    wait_until(answers, within_s=60)
    return client


def admin_of(worker: Running) -> int:
    """Return the pid of the admin's process, once there is one."""
    found: list[int] = []

    def is_there() -> bool:
        # It was started by a thread, and is listed with that.
        tasks = Path(f"/proc/{worker.process.pid}/task").glob("*/children")
        found[:] = [int(pid) for task in tasks for pid in task.read_text().split() if name_of(int(pid)) == "pspf-admin"]
        return len(found) == 1

    wait_until(is_there, within_s=60)
    return found[0]


def test_a_worker_is_seen_and_steered(folder: Folder) -> None:
    folder.emit(5)
    folder.emit_lines('{"n": 6, "key": "k", "do": "fail"}')
    with folder.worker(*ANY, "--metrics", "127.0.0.1:0") as worker:
        client = client_of(worker)
        wait_until(lambda: client.get("/dlq")["total"] == 1)
        wait_until(lambda: client.get("/topology")["handlers"][0]["dead"] == 1)
        assert client.get("/lag")["lag"] == 0
        assert client.get("/state/total?key=k")["state"][0]["value"] == 15
        assert client.sums("pspf_events_total", status="processed") == 5
        assert client.sums("pspf_end_to_end_seconds_count", handler="app.total") == 6
        metrics_port = int(worker.log.read_text().partition("metrics: http://127.0.0.1:")[2].partition("/")[0])
        assert "pspf_events_total" in client.ask("GET", "/metrics", port=metrics_port)[1]
        assert client.ask("GET", "/status", port=metrics_port)[0] == 404

        client.post("/pause", process="orders/billing#0")
        # It finishes the batch in hand first, and says that it does.
        wait_until(lambda: client.ask("GET", "/ready")[0] == 503 and "paused" in client.ask("GET", "/ready")[1])
        client.post("/resume")
        wait_until(lambda: client.ask("GET", "/ready")[0] == 200)
        assert client.post("/dlq/replay", topic="orders") == {"replayed": 1, "left": 0}
        wait_until(lambda: worker.says("dead after attempt", times=2))
        client.post("/log-level", level="DEBUG")
        wait_until(lambda: client.get("/status")["log_level"] == "DEBUG")

        client.post("/drain")
        assert worker.end() == 0
        assert worker.log.read_text().count(client.token) == 1


def test_an_admin_that_is_killed_comes_back_on_its_port_and_the_worker_goes_on(folder: Folder) -> None:
    with folder.worker(*ANY) as worker:
        client_of(worker)
        before = worker.children()
        killed = admin_of(worker)
        os.kill(killed, signal.SIGKILL)
        folder.emit(3)
        wait_until(lambda: worker.says("start 3"))
        worker.wait_for("another admin starts")
        wait_until(lambda: not is_running(killed))
        last = admin_of(worker)
        client_of(worker)
        assert worker.children() == before
        worker.signal(signal.SIGKILL)
        worker.end()
        wait_until(lambda: not is_running(last))


def test_sums_hold_and_no_series_is_left_of_a_process_that_was_killed(folder: Folder) -> None:
    with folder.worker(*ANY, "-w", "orders=1,large=3") as worker:
        client = client_of(worker)
        wait_until(lambda: sum(each.startswith("pspf_lag_events") for each in client.series()) == 2)
        series = client.series()
        folder.emit(50, n=100)
        total = {"handler": "app.total", "status": "processed"}
        audit = {"handler": "app.audit", "status": "processed"}
        # Both: what a process did after its last report is lost with it.
        wait_until(lambda: client.sums("pspf_events_total", **audit) == 50, within_s=60)
        wait_until(lambda: client.sums("pspf_events_total", **total) == 50, within_s=60)
        places = {process["place"]: process["pid"] for process in client.get("/status")["processes"]}
        for place in ("orders/billing#0", "large/audit#1"):
            os.kill(places[place], signal.SIGKILL)
        wait_until(lambda: client.sums("pspf_worker_restarts_total") == 2)
        assert client.sums("pspf_events_total", **total) == 50
        folder.emit(50, n=100)
        wait_until(lambda: client.sums("pspf_events_total", **audit) == 100, within_s=60)
        assert client.sums("pspf_events_total", **total) == 100
        assert client.sums("pspf_batch_events_sum", handler="app.total") == 100
        assert client.series() == series
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_a_flood_of_connections_disturbs_no_worker(folder: Folder) -> None:
    folder.environment["PSPF_ADMIN_TOKEN"] = "a-token-that-was-configured"
    (folder.path / "app.py").write_text(
        (folder.path / "app.py").read_text() + 'import sys\nprint("web", "uvicorn" in sys.modules)\n'
    )
    with folder.worker(*ANY) as worker:
        client = client_of(worker, "a-token-that-was-configured")
        flood = []
        for number in range(600):
            other = socket.create_connection((client.host, client.port))
            other.sendall(b"GET /metrics HTTP/1.1\r\nHost: " if number % 2 else b"\0" * 100)
            flood.append(other)
        folder.emit(20)
        wait_until(lambda: worker.says("start 20"))
        assert client.get("/health")["status"] == "ok"
        for other in flood:
            other.close()
        assert len(os.listdir(f"/proc/{admin_of(worker)}/fd")) < 300
        assert worker.says("web False")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert not worker.says("a-token-that-was-configured")
        assert not worker.says("Traceback")


def test_in_one_process_the_admin_is_beside_it(folder: Folder) -> None:
    folder.emit(3)
    with folder.worker("--in-process", *ANY) as worker:
        client = client_of(worker)
        wait_until(lambda: client.sums("pspf_events_total", status="processed") == 3)
        status, body = client.ask("POST", "/pause")
        assert (status, "no supervisor" in body) == (409, True)
        for path in ("/health", "/ready", "/status", "/topology"):
            assert client.get(path)
        client.post("/drain")
        assert worker.end() == 0


def test_what_was_asked_for_and_can_not_be_ends_it_before_anything_runs(folder: Folder) -> None:
    (folder.path / "short").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        asked, metrics, exposed, short, missing = folder.each(
            ("worker", "--admin", f"127.0.0.1:{port}"),
            ("worker", "--admin", "off", "--metrics", str(port)),
            ("worker", "--admin", "0.0.0.0:0"),
            ("worker", "--admin-token-file", "short", "--admin", "0"),
            ("worker", "--admin-token-file", "nowhere", "--admin", "0"),
        )
    assert (asked.code, f"--admin 127.0.0.1:{port}: Address already in use" in asked.err) == (2, True)
    assert (metrics.code, f"--metrics 127.0.0.1:{port}: Address already in use" in metrics.err) == (2, True)
    assert (exposed.code, "--admin-token-file FILE or PSPF_ADMIN_TOKEN" in exposed.err) == (2, True)
    assert (short.code, "16 to 200" in short.err, "secret" in short.err) == (2, True, False)
    assert (missing.code, "No such file" in missing.err) == (2, True)


def test_a_port_from_the_environment_counts_as_asked_for(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        folder.environment |= {"PSPF_ADMIN": "", "PSPF_ADMIN_PORT": str(taken.getsockname()[1])}
        (refused,) = folder.each(("worker",))
    assert (refused.code, "Address already in use" in refused.err) == (2, True)

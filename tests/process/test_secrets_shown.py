"""A worker's password and token are in nothing that can be seen of it: endpoints, commands, logs, spans, processes."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from pspf.admin.app import ENDPOINTS
from tests.process.commands import APP, Folder, Running, wait_until
from tests.process.test_admin import Client
from tests.support.servers import Server, find

TOKEN: Final = "hunter2-admin-token"
NEEDLE: Final = "hunter2"
PAGES: Final = ("/", "/docs", "/openapi.json", "/dashboard/app.js", "/dashboard/nothing", "/nothing")

SPANS: Final = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class FileExporter(SpanExporter):
    def export(self, spans):
        with open("spans.ndjson", "a") as lines:
            for span in spans:
                lines.write(span.to_json(indent=None) + "\\n")
        return SpanExportResult.SUCCESS


trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(FileExporter()))
"""


@dataclass(frozen=True)
class Scene:
    """A worker on a server that wants a password."""

    folder: Folder
    server: Server
    worker: Running
    admin: Client
    url: str
    secret: str

    def needles(self) -> tuple[str, ...]:
        """Return what nothing may show."""
        return (NEEDLE, self.secret, quote(self.secret, safe=""))


@dataclass(frozen=True)
class Way:
    """How a worker is told of its broker. A `%` may stand in a URL as it is, other marks may not."""

    name: str
    secret: str
    written: str
    by_argument: bool
    log_format: str


WAYS: Final = (
    Way("--backend", "hunter2?#@/%more", quote("hunter2?#@/%more", safe=""), True, "plain"),
    Way("PSPF_BACKEND", "hunter2%more", "hunter2%more", False, "json"),
)


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    way: Way = request.param
    for name in ("server", "app"):
        (tmp_path / name).mkdir()
    users = f"user default on nopass ~* &* +@all\nuser app on >{way.secret} ~* &* +@all\n"
    folder = Folder(tmp_path / "app")
    (folder.path / "app.py").write_text(SPANS + APP)
    with Server(find("valkey"), tmp_path / "server", users=users) as server:
        url = server.url(user="app", password=way.written)
        where = ("--backend", url) if way.by_argument else ()
        folder.environment |= {"PSPF_ADMIN_TOKEN": TOKEN, "VALKEY_PASSWORD": way.secret}
        folder.environment |= {"PSPF_LEASE_MS": "1500", "PSPF_RENEW_MS": "300"}
        folder.environment |= {} if way.by_argument else {"PSPF_BACKEND": url}
        options = ("--admin", "127.0.0.1:0", "--log-format", way.log_format, "--log-level", "DEBUG", *where)
        with folder.worker(*options, from_nothing=True) as worker:
            worker.wait_for("dashboard: ")
            found = re.search(r"dashboard: http://([^:/]+):(\d+)/", worker.log.read_text())
            assert found is not None
            scene = Scene(folder, server, worker, Client(found[1], int(found[2]), TOKEN), url, way.secret)
            _make_trouble(scene)
            yield scene


def _make_trouble(scene: Scene) -> None:
    """Have a dead letter, a crash notice and an outage in the log."""
    for payload in ({"do": "fail", "n": 1, "key": "k"}, {"do": "exit", "n": 2, "key": "l"}):
        result = scene.folder.pspf("emit", "orders", json.dumps(payload), "--backend", scene.url)
        assert result.code == 0, result
    scene.worker.wait_for("dead after attempt 2/2")
    scene.worker.wait_for("ended with exit code 7")
    scene.server.stop()
    scene.worker.wait_for("will try again")
    scene.server.start()
    wait_until(lambda: scene.admin.ask("GET", "/ready")[0] == 200, within_s=60)


def _endpoints(scene: Scene) -> list[str]:
    """Return what every endpoint answers, with the token, without it and with a wrong one."""
    wrong = Client(scene.admin.host, scene.admin.port, "hunter3-wrong-token")
    shown = []
    for endpoint in ENDPOINTS:
        path = endpoint.path.format(handler="app.total", topic="orders", id="0-1")
        if endpoint.path != "/drain":  # it would end the worker that others look at
            shown.append(scene.admin.ask(endpoint.method, path, process="nothing")[1])
        shown.append(wrong.ask(endpoint.method, path)[1])
    return shown


def _pages(scene: Scene) -> list[str]:
    return [scene.admin.ask("GET", path)[1] for path in PAGES]


def _away(scene: Scene) -> list[str]:
    """Return what endpoints and commands say while the server is away."""
    scene.server.stop()
    try:
        paths = [each.path.format(handler="app.total", topic="orders", id="0-1") for each in ENDPOINTS]
        return [
            *(scene.admin.ask("GET", path)[1] for path in paths),
            *_run(scene, ("broker", "info", "-v"), ("broker", "doctor", "-v"), ("workers", "list", "-v")),
        ]
    finally:
        scene.server.start()
        wait_until(lambda: scene.admin.ask("GET", "/ready")[0] == 200, within_s=60)


def _run(scene: Scene, *commands: tuple[str, ...]) -> list[str]:
    """Return what commands print; the broker is told as the worker was."""
    named = [(*command, "--backend", scene.url) if "--help" not in command else command for command in commands]
    with_url = scene.folder.each(*named)
    scene.folder.environment["PSPF_BACKEND"] = scene.url
    return [part for each in (*with_url, *scene.folder.each(*commands)) for part in (each.out, each.err)]


def _commands(scene: Scene) -> list[str]:
    return _run(
        scene,
        ("broker", "info"),
        ("broker", "info", "--json"),
        ("broker", "doctor", "-v"),
        ("workers", "list"),
        ("workers", "list", "--json"),
        ("workers", "ping"),
        ("workers", "stacks"),
        ("health", "ready", "-v"),
        ("topics", "list"),
        ("groups", "inspect"),
        ("groups", "consumers", "billing"),
        ("pending", "list", "billing"),
        ("windows", "list"),
        ("state", "list"),
        ("dlq", "list"),
        ("top", "--once"),
        ("show", "-v"),
        ("worker", "--check", "-v"),
    )


def _help(scene: Scene) -> list[str]:
    places = ("worker", "emit", "emit-many", "tail", "show", "top", "dev", "init")
    return _run(scene, ("--help",), *((place, "--help") for place in places), ("workers", "list", "--help"))


def _settings(scene: Scene) -> list[str]:
    return [
        text
        for each in scene.folder.each(("config", "show"), ("config", "show", "--json"), ("version", "--json"))
        for text in (each.out, each.err)
    ]


def _unescaped(scene: Scene) -> list[str]:
    """Return what is said of a password with marks that a URL can't have."""
    places = ("hunter2?x", "hunter2#x", "hun@hunter2", "hunter2/x", "hunter2%", "%hunter2?@#/")
    urls = [f"valkey://{user}:{place}@127.0.0.1:{scene.server.port}/0" for place in places for user in ("app", "")]
    urls += [f"valkey://hunter2@127.0.0.1:{scene.server.port}/0", f"hunter2@127.0.0.1:{scene.server.port}"]
    commands = [(*command, "--backend", url) for url in urls for command in (("topics", "list", "-v"), ("worker",))]
    del scene.folder.environment["VALKEY_PASSWORD"]
    results = scene.folder.each(*commands)
    scene.folder.environment["VALKEY_PASSWORD"] = scene.secret
    assert all(result.code for result in results)
    return [text for result in results for text in (result.out, result.err)]


def _processes(scene: Scene) -> list[str]:
    """Return the arguments and names of the worker and of all that it has started."""
    pids = [scene.worker.process.pid, *scene.worker.family()]
    assert len(pids) >= 4
    shown = [Path(f"/proc/{pid}/{name}").read_bytes().decode() for pid in pids for name in ("cmdline", "comm")]
    assert any("pspf" in each for each in shown)
    return shown


def _log(scene: Scene) -> list[str]:
    """Return the log, of a reload and of the end too: it is the last to be looked at."""
    scene.worker.signal(signal.SIGHUP)
    scene.worker.wait_for("SIGHUP: ")
    scene.worker.signal(signal.SIGTERM)
    scene.worker.end()
    text = scene.worker.log.read_text()
    assert "valkey://app@127.0.0.1" in text
    return [text]


def _spans(scene: Scene) -> list[str]:
    text = (scene.folder.path / "spans.ndjson").read_text()
    assert "process orders" in text
    return [text]


SURFACES: Final[dict[str, Callable[[Scene], list[str]]]] = {
    "every endpoint": _endpoints,
    "the dashboard and the docs": _pages,
    "arguments of processes": _processes,
    "commands": _commands,
    "help": _help,
    "settings": _settings,
    "refused URLs": _unescaped,
    "the server away": _away,
    "spans": _spans,
    "the log": _log,
}


def test_nothing_that_can_be_seen_of_a_worker_has_its_password_or_its_token(scene: Scene) -> None:
    for name, look in SURFACES.items():  # the log is of all of them: one worker, in this order
        shown = look(scene)
        assert any(shown), name
        for text in shown:
            for needle in scene.needles():
                assert needle not in text, (name, text[max(0, text.index(needle) - 200) :][:400])

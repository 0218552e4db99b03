"""Workers on a server: what they give back when they end, and what they do while there is nothing to do."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.process.commands import Folder, wait_until
from tests.support.proxy import Proxy
from tests.support.servers import Server, find, hall

IDLE_S: Final = 8
LEASE_MS: Final = 2_000
COMMANDS_PER_S: Final = 3
"""What an idle worker may send for a partition."""
CORE_SHARE: Final = 0.01
RETURN_S: Final = 1.0
"""How soon what a worker had is anybody's again after a graceful stop."""


class Site:
    """A folder whose commands use an empty database of the shared server, through a proxy."""

    def __init__(self, folder: Folder, proxy: Proxy, database: int) -> None:
        self.folder = folder
        self.proxy = proxy
        server = hall("valkey").server
        self.at = ("--backend", server.url(database=database))
        url = server.url(database=database, port=proxy.port)
        folder.environment |= {"PSPF_BACKEND": url, "PSPF_LEASE_MS": str(LEASE_MS), "PSPF_RENEW_MS": "300"}

    def emit(self, count: int, **fields: object) -> None:
        """Emit `count` orders of one key, past the proxy."""
        lines = "\n".join(json.dumps({"n": n, "key": "k", **fields}) for n in range(1, count + 1))
        (self.folder.path / "lines.ndjson").write_text(lines)
        self.folder.ok("emit", "orders", "@lines.ndjson", *self.at)

    def group(self, name: str = "billing") -> dict[str, Any]:
        """Return what is known of a group."""
        groups = self.folder.ok("groups", "inspect", "--json", *self.at).json["groups"]
        found: dict[str, Any] = next((group for group in groups if group["group"] == name), {"lag": None})
        return found

    def owner(self) -> str | None:
        """Return who holds the cursor of `billing`."""
        found: str | None = self.group()["partitions"][0]["owner"]
        return found


@pytest.fixture
def site(folder: Folder, tmp_path: Path) -> Iterator[Site]:
    shared = hall("valkey")
    with Proxy(shared.server.port, keeps=True) as proxy:
        yield Site(folder, proxy, shared.database_of(tmp_path))


def test_the_same_app_runs_here_and_leaves_nothing_over(site: Site) -> None:
    site.emit(20)
    done = site.folder.run("worker", "--burst")
    assert "handled 20, failed 0, dead 0, lag 0" in done.err
    assert site.group()["lag"] == 0


def test_what_a_worker_had_is_anybodys_at_once_after_a_graceful_stop(site: Site) -> None:
    site.emit(1, do="sleep", seconds=60)
    with site.folder.worker("--in-process") as worker:
        worker.wait_for("start 1")
        assert site.owner() is not None
        worker.signal(signal.SIGTERM)
        time.sleep(0.2)  # two signals at once are one to a process
        worker.signal(signal.SIGTERM)
        given_back_s = wait_until(lambda: site.owner() is None)
        assert worker.end() == 143
    assert given_back_s < RETURN_S
    assert site.group()["lag"] == 1


def test_what_a_killed_worker_had_is_taken_over_within_its_lease_and_two_seconds(site: Site) -> None:
    go = site.folder.path / "go"
    site.emit(1, go=str(go))
    with site.folder.worker("--in-process") as dying:
        dying.wait_for("start 1")
        other = Folder(_sub(site.folder.path, "other"))
        other.environment = site.folder.environment
        with other.worker("--in-process") as heir:
            heir.wait_for("processes:")
            time.sleep(1)
            dying.process.kill()
            killed = time.monotonic()
            heir.wait_for("start 1")
            assert time.monotonic() - killed < LEASE_MS / 1000 + 2
            go.touch()
            wait_until(lambda: site.group()["lag"] == 0)
            heir.signal(signal.SIGTERM)
            assert heir.end() == 0


def test_a_slow_handlers_records_stay_its_own(site: Site) -> None:
    site.emit(1, do="block", seconds=2.5 * LEASE_MS / 1000)  # not even the event loop runs
    with site.folder.worker("--in-process") as slow:
        slow.wait_for("start 1")
        other = Folder(_sub(site.folder.path, "other"))
        other.environment = site.folder.environment
        with other.worker("--in-process") as idle:
            wait_until(lambda: site.group()["lag"] == 0)
            assert not idle.says("start 1")
            idle.signal(signal.SIGTERM)
            assert idle.end() == 0


def _sub(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def test_a_worker_with_nothing_to_do_asks_little_of_the_server_and_of_its_core(site: Site) -> None:
    site.emit(1)
    for name in ("PSPF_LEASE_MS", "PSPF_RENEW_MS"):
        del site.folder.environment[name]  # leases as they are by default: short ones are renewed often
    with site.folder.worker("--in-process") as worker:
        wait_until(lambda: site.group()["lag"] == 0)
        time.sleep(2)
        before, cpu = len(site.proxy.seen), _cpu_s(worker.process.pid)
        time.sleep(IDLE_S)
        sent, used_s = site.proxy.seen[before:], _cpu_s(worker.process.pid) - cpu
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    # The list of workers and their commands is one for the whole worker, however many partitions it has.
    shown = [command for command in sent if command[0] == b"TIME" or any(b"{workers}" in part for part in command)]
    partitions = 2  # `orders` in order for one group, `large` shared by another
    rate = (len(sent) - len(shown)) / IDLE_S / partitions
    print(f"{rate:.2f} commands a second and partition, {len(shown) / IDLE_S:.2f} for the worker")
    print(f"{used_s / IDLE_S:.2%} of a core")
    assert rate < COMMANDS_PER_S, site.proxy.commands
    assert len(shown) / IDLE_S < COMMANDS_PER_S, site.proxy.commands
    assert used_s / IDLE_S < CORE_SHARE


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_waits_for_a_server_that_is_not_there_yet_and_says_so_once(folder: Folder, tmp_path: Path) -> None:
    server = Server(find("valkey"), _sub(tmp_path, "server"))
    folder.environment |= {"PSPF_BACKEND": server.url()}
    with server:
        server.stop()
        with folder.worker("--in-process") as worker:
            worker.wait_for("waiting for the broker")
            time.sleep(1.5)
            assert worker.process.poll() is None
            server.start()
            worker.wait_for("the broker is there")
            folder.ok("emit", "orders", '{"n": 1}', "-k", "k", "--backend", server.url())
            worker.wait_for("start 1")
            worker.signal(signal.SIGTERM)
            assert worker.end() == 0
            assert worker.log.read_text().count("waiting for the broker") == 1


def test_other_commands_give_up_with_the_code_for_it_and_without_the_password(folder: Folder) -> None:
    server = Server(find("valkey"), folder.path)
    begun = time.monotonic()
    result = folder.look("groups", "inspect", "--backend", server.url(user="app", password="hunter2"))
    assert result.code == 4, result
    assert time.monotonic() - begun < 6
    assert "hunter2" not in result.err

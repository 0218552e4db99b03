"""The connector: address and credentials of a server, and its one-time checks."""

import asyncio
import inspect
import time
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pspf.concurrency.shielding import apart
from pspf.connectors.valkey.connection.failures import translate_connect
from pspf.errors import ConfigurationError

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_DISTRUST_S: Final = 5.0

# CLIENT SETINFO is newer than the oldest server; older clients have two arguments for it.
_TAKES: Final = inspect.signature(redis.asyncio.Connection.__mro__[1]).parameters
_UNNAMED: Final = {"driver_info": None} if "driver_info" in _TAKES else {"lib_name": None, "lib_version": None}

CertificateCheck = Literal["required", "optional", "none"]


class ValkeyConnector:
    """One Valkey (7.2 or newer) or Redis (7.0 or newer) server. Making one opens nothing.

    With `unix_socket_path` host and port don't count. The `ssl_...` files are PEM.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 6379,
        db: int = 0,
        *,
        username: str | None = None,
        password: str | None = None,
        unix_socket_path: str | None = None,
        ssl: bool = False,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_cert_reqs: CertificateCheck = "required",
        ssl_check_hostname: bool = True,
    ) -> None:
        if ssl and unix_socket_path:
            raise ConfigurationError("a unix socket has no TLS: leave out ssl=, or name host= and port=")
        if db < 0 or not 0 < port < 65536:
            raise ConfigurationError(f"port={port}, db={db}: no server has these")
        if username and not password:
            raise ConfigurationError(f"username={username!r} has no password")
        self.host = host
        self.port = port
        self.db = db
        self.username = username
        self.unix_socket_path = unix_socket_path
        self.name = self._describe(ssl=ssl, username=username)
        self._options: dict[str, Any] = {
            "db": db,
            "username": username,
            "password": password,
            "protocol": 2,
            # By itself redis-py would send a command again after its reply was lost: an XADD twice.
            "retry_on_timeout": False,
            "socket_connect_timeout": _CONNECT_S,
            "socket_timeout": _ANSWER_S,
            **_UNNAMED,
        }
        if unix_socket_path:
            self._options["path"] = unix_socket_path
        else:
            self._options |= {"host": host, "port": port}
        if ssl:
            self._options |= {
                "ssl_ca_certs": ssl_ca_certs,
                "ssl_certfile": ssl_certfile,
                "ssl_keyfile": ssl_keyfile,
                "ssl_cert_reqs": ssl_cert_reqs,
                "ssl_check_hostname": ssl_check_hostname and ssl_cert_reqs != "none",
            }
        self._is_ssl = ssl
        self.trust = 0
        """Goes up when the connections that stand are to be replaced; each is opened again on its next use."""
        self._distrusted_at = -_DISTRUST_S

    def distrust(self) -> None:
        """Have all connections opened again and the name resolved again: the server at their other end is no primary.

        At most once in a few seconds: until the name leads to the new primary, new connections meet the old one.
        """
        now = time.monotonic()
        if now - self._distrusted_at >= _DISTRUST_S:
            self._distrusted_at = now
            self.trust += 1

    def _describe(self, *, ssl: bool, username: str | None) -> str:
        who = f"{username}@" if username else ""
        if self.unix_socket_path:
            return f"valkey+unix://{who}{self.unix_socket_path}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'valkeys' if ssl else 'valkey'}://{who}{host}:{self.port}/{self.db}"

    @property
    def secret_url(self) -> str:
        """The URL of the same server and user, with the password and all TLS options. Never to be shown."""
        options = self._options
        who = quote(self.username or "", safe="")
        if options["password"]:
            who += f":{quote(options['password'], safe='')}"
        at = f"{who}@" if who else ""
        if self.unix_socket_path:
            return f"valkey+unix://{at}{quote(self.unix_socket_path)}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        if not self._is_ssl:
            return f"valkey://{at}{host}:{self.port}/{self.db}"
        tls = {name: str(value) for name, value in options.items() if name.startswith("ssl_") and value is not None}
        return f"valkeys://{at}{host}:{self.port}/{self.db}?{urlencode(tls)}"

    def __repr__(self) -> str:
        return f"<ValkeyConnector {self.name}>"

    async def open_connection(self, purpose: str) -> asyncio.StreamWriter:
        """Open and authenticate a connection; return its writer. Nothing is under way on it.

        Raises:
            BackendUnavailable: The server can't be reached, or refuses for now.
            NotPermitted: The user or the password is wrong.
        """
        connection = self._make_connection(f"pspf-{purpose}")
        try:
            await apart(connection.connect())
        except BaseException as error:
            connection._close()
            if isinstance(error, RedisError | OSError):
                translated = translate_connect(error, self.name)
                raise translated from translated.__cause__ or error
            raise
        writer: asyncio.StreamWriter = connection._writer
        # From here on it is ours: redis-py has no public way to hand over what it has opened.
        connection._reader = connection._writer = None
        return writer

    def _make_connection(self, client_name: str) -> Any:
        kind: Any = redis.asyncio.Connection
        if self.unix_socket_path:
            kind = redis.asyncio.UnixDomainSocketConnection
        elif self._is_ssl:
            kind = redis.asyncio.SSLConnection
        return kind(**self._options, retry=AsyncRetry(NoBackoff(), 0), client_name=client_name)

    def make_blocking(self) -> Any:
        """Return a redis-py Connection for a thread, not connected yet. Its errors are redis-py's."""
        kind: Any = redis.Connection
        if self.unix_socket_path:
            kind = redis.UnixDomainSocketConnection
        elif self._is_ssl:
            kind = redis.SSLConnection
        return kind(**self._options, retry=Retry(NoBackoff(), 0), client_name="pspf-leases")

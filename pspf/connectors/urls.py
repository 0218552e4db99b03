"""Broker URLs: from a URL, or the settings, to a broker that is not yet open.

sqlite:///rel.db   sqlite:////abs.db   sqlite:///rel.db?synchronous=NORMAL   sqlite   memory://   memory
valkey://host:6379/0   valkeys://user:password@host   redis://   rediss://   valkey+unix:///path   valkey
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pspf.clock import Clock
from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.limits import Limits
from pspf.connectors.valkey.connection.url import PLAIN_SCHEMES, TLS_SCHEMES, UNIX_SCHEMES, parse_server
from pspf.errors import ConfigurationError, NotAvailable
from pspf.settings import hide_password, settings

_VALKEY_SCHEMES: Final = (*PLAIN_SCHEMES, *TLS_SCHEMES, *UNIX_SCHEMES)
_LATER_SCHEMES: Final = tuple(
    f"{scheme}+{kind}" for kind in ("cluster", "sentinel") for scheme in (*PLAIN_SCHEMES, *TLS_SCHEMES)
)
_SCHEMES: Final = ("sqlite", "memory", *_VALKEY_SCHEMES, *_LATER_SCHEMES)
_KNOWN_OPTIONS: Final = ("db=", "ssl_")
_SYNCHRONOUS: Final = ("FULL", "NORMAL")
_ONE_SERVER: Final = "this version has neither Cluster nor Sentinel yet; use one server: valkey://host:6379/0"

safe_url = hide_password


def make_backend(topic: str, group: str, url: str | None = None) -> StreamingBackend:
    """Return a topic and a group on the broker that `make_broker(url)` makes; opens nothing."""
    return StreamingBackend(make_broker(url), topic, group)


def make_broker(url: str | None = None, *, clock: Clock | None = None) -> Broker:
    """Return the broker at `url`, else the one that the settings choose; opens nothing.

    Without a URL: `PSPF_BACKEND`; else Valkey, where `VALKEY_HOST` is set or `PSPF_ENV` is not
    `dev`; else the embedded broker of the project (see `find_default_file`). `clock` replaces its own.

    Raises:
        ConfigurationError: The URL has an unknown scheme or is malformed.
        NotAvailable: It names a broker that this version does not have.
    """
    url = url or settings.BACKEND
    if not url:
        url = "valkey://" if _asks_for_valkey() else "sqlite://"
    if ":" not in url:
        url = f"{url}://"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        what = "" if "@" in url else f": {error}"  # which may quote it
        raise ConfigurationError(f"backend {safe_url(url)!r} is no URL{what}") from None
    if not url[len(parts.scheme) :].startswith("://") or parts.scheme not in _SCHEMES:
        raise ConfigurationError(_explain_scheme(url))
    if parts.scheme in _LATER_SCHEMES:
        raise NotAvailable(f"backend {safe_url(url)}: {_ONE_SERVER}")
    if parts.scheme in _VALKEY_SCHEMES:
        _check_escapes(url)
        return _make_valkey(parse_server(url, parts), clock)
    if parts.scheme == "memory":
        return _make_memory(url, parts.netloc + parts.path + parts.query, clock)
    if parts.netloc or parts.fragment:
        raise ConfigurationError(
            f"backend {safe_url(url)!r}: a file's URL has three slashes (sqlite:///rel.db) or four (sqlite:////abs.db)"
        )
    path = Path(unquote(parts.path.removeprefix("/"))) if len(parts.path) > 1 else find_default_file()
    return _make_sqlite(path.expanduser(), _read_synchronous(url, parts.query), clock)


def _check_escapes(url: str) -> None:
    """Raise ConfigurationError where a user or password ends before its @: what follows must not be quoted."""
    rest = url.partition("://")[2]
    secret, at, _ = rest.rpartition("@")
    if not at or rest.startswith("/"):
        return
    place, question, query = secret.partition("?")
    if question and "@" not in place and query.startswith(_KNOWN_OPTIONS):
        return  # an @ in the name of a file
    if any(character in secret for character in "/?#@"):
        raise ConfigurationError(
            f"backend {safe_url(url)!r}: its user or password has / ? # or @ in it; write %2F %3F %23 %40"
        )


def find_default_file(start: Path | None = None) -> Path:
    """Return the embedded broker's file for a folder: `.pspf/broker.db` under the project.

    The project is the nearest folder, from `start` (the working directory) upwards, with a
    `.pspf` folder or a pyproject.toml; without one it is `start`.
    """
    start = (start or Path.cwd()).absolute()
    project = next((at for at in (start, *start.parents) if _is_project(at)), start)
    return project / ".pspf" / "broker.db"


def _is_project(folder: Path) -> bool:
    return (folder / ".pspf").is_dir() or (folder / "pyproject.toml").is_file()


def make_limits(synchronous: str | None = None) -> Limits:
    """Return the limits that the settings ask for."""
    return Limits(
        lease_ms=settings.LEASE_MS,
        renew_ms=settings.RENEW_MS,
        dedup_window_ms=settings.DEDUP_WINDOW_MS,
        dedup_max_ids=settings.DEDUP_MAX_IDS,
        retention_ms=settings.RETENTION_MS,
        emit_timeout_ms=settings.EMIT_TIMEOUT_MS,
        max_record_bytes=settings.MAX_RECORD_BYTES,
        max_key_bytes=settings.MAX_KEY_BYTES,
        max_headers_bytes=settings.MAX_HEADERS_BYTES,
        max_crashes=settings.MAX_CRASHES,
        synchronous=synchronous or settings.SQLITE_SYNCHRONOUS,
    )


def _asks_for_valkey() -> bool:
    return settings.valkey.IS_HOST_SET or settings.ENV != "dev"


def _explain_scheme(url: str) -> str:
    scheme = url.partition(":")[0]
    shown = f"backend {safe_url(url)!r}"
    if "@" in scheme or (scheme.lower() not in _SCHEMES and "@" in url):
        return f"{shown} is no URL of a broker; write valkey://user:password@host:6379/0"
    if scheme.lower() == "sqlite":
        return f"{shown}: a file's URL has three slashes (sqlite:///rel.db) or four (sqlite:////abs.db)"
    if scheme.lower() in _SCHEMES:
        return f"{shown}: write {scheme.lower()}:// with two slashes"
    if "/" in scheme or "." in scheme or len(scheme) == 1:
        return f"{shown} is no URL; a file is sqlite:///rel.db or sqlite:////abs.db"
    near = get_close_matches(scheme.lower(), _SCHEMES, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "use sqlite:///path.db, valkey://host:6379/0 or memory://"
    return f"{shown}: no broker is called {scheme[:40]!r}; {hint}"


def _read_synchronous(url: str, query: str) -> str | None:
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise ConfigurationError(f"backend {safe_url(url)!r}: {error}") from None
    synchronous = options.pop("synchronous", None)
    if options:
        raise ConfigurationError(
            f"backend {safe_url(url)!r}: no option {min(options)!r}; there is synchronous=FULL|NORMAL"
        )
    if synchronous is not None and synchronous.upper() not in _SYNCHRONOUS:
        raise ConfigurationError(f"backend {safe_url(url)!r}: synchronous is FULL or NORMAL")
    return None if synchronous is None else synchronous.upper()


def _make_memory(url: str, rest: str, clock: Clock | None) -> Broker:
    if rest.strip("/"):
        raise ConfigurationError(f"backend {safe_url(url)!r}: memory:// has no name and no options")
    from pspf.connectors.memory import MemoryBroker  # start-up: brings the whole broker with it

    return MemoryBroker(make_limits(), clock)


def _make_sqlite(path: Path, synchronous: str | None, clock: Clock | None) -> Broker:
    from pspf.connectors.sqlite.broker import SQLiteBroker  # start-up: loads apsw

    return SQLiteBroker(path, make_limits(synchronous), clock)


def _make_valkey(server: dict[str, Any], clock: Clock | None) -> Broker:
    from pspf.connectors.valkey import ValkeyBroker, ValkeyConnector  # start-up: loads the client

    return ValkeyBroker(ValkeyConnector(**server), make_limits(), clock)

"""Server URLs: from a URL and the settings to an address; loads no client.

valkey://[user:password@]host[:port][/db]   valkeys:// with TLS   redis:// rediss:// the same
valkey+unix://[user:password@]/path/to/socket[?db=0]   also redis+unix:// and unix://
valkey (or without a host)   all from VALKEY_HOST, VALKEY_PORT, ...
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote

from pspf.errors import ConfigurationError
from pspf.settings import hide_password, settings

PLAIN_SCHEMES: Final = ("valkey", "redis")
TLS_SCHEMES: Final = ("valkeys", "rediss")
UNIX_SCHEMES: Final = ("valkey+unix", "redis+unix", "unix")

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_CHECKS: Final = ("required", "optional", "none")
_YES_OR_NO: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def parse_server(url: str, parts: SplitResult) -> dict[str, Any]:
    """Return the arguments of a `ValkeyConnector`.

    What the URL leaves out (user, password, TLS files) comes from the settings; the place does only
    where the URL names none.

    Raises:
        ConfigurationError: The URL says something that it can't.
    """
    shown = f"backend {hide_password(url)!r}"
    if parts.fragment:
        raise ConfigurationError(f"{shown}: a URL of a server has no #; write %23 in a password")
    options = _read_options(shown, parts.query)
    is_unix, is_tls = parts.scheme in UNIX_SCHEMES, parts.scheme in TLS_SCHEMES
    if is_unix:
        found = {"unix_socket_path": unquote(parts.path), "db": _read_db(shown, options.pop("db", "0"))}
        if len(parts.path) < 2 or parts.hostname:
            raise ConfigurationError(f"{shown}: a unix socket has a path alone: {parts.scheme}:///run/valkey.sock?db=0")
    elif not parts.netloc and parts.path in ("", "/"):
        found = _read_place()
        is_tls = is_tls or (settings.valkey.SSL and "unix_socket_path" not in found)
    else:
        found = _parse_place(shown, parts)
        if "db" in options:
            found["db"] = _read_db(shown, options.pop("db"))
    found |= _credentials(shown, parts)
    if is_tls:
        found |= {"ssl": True, **_read_tls(shown, options)}
    if options:
        near = "db" if is_unix else f"db and, with TLS, {', '.join(_TLS_OPTIONS)}"
        raise ConfigurationError(f"{shown}: no option {min(options)!r} here; there is {near}")
    return found


def _read_options(shown: str, query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise ConfigurationError(f"{shown}: {error}") from None


def _read_place() -> dict[str, Any]:
    place = settings.valkey
    if place.UNIX_SOCKET_PATH is not None:
        return {"unix_socket_path": place.UNIX_SOCKET_PATH, "db": place.DB}
    return {"host": place.HOST, "port": place.PORT, "db": place.DB}


def _parse_place(shown: str, parts: SplitResult) -> dict[str, Any]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(
            f"{shown}: its port is no number; write / @ : # in a password as %2F %40 %3A %23"
        ) from None
    if not host:
        raise ConfigurationError(f"{shown}: it names no host")
    place = {"host": host, "port": 6379 if port is None else port}
    return place | {"db": _read_db(shown, parts.path.strip("/") or "0")}


def _read_db(shown: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"{shown}: the database is a number (valkey://host:6379/0), not {text!r:.40}")
    return int(text)


def _credentials(shown: str, parts: SplitResult) -> dict[str, str]:
    username, password = parts.username, parts.password
    if password:
        found = {"password": unquote(password)}
        return found | {"username": unquote(username)} if username else found
    secret = settings.valkey.PASSWORD
    name = unquote(username) if username else settings.valkey.USERNAME
    if secret is None and name:
        raise ConfigurationError(
            f"{shown}: its user has no password, nor is VALKEY_PASSWORD set; a password without a user is"
            f" {parts.scheme}://:password@host"
        )
    if secret is None:
        return {}
    found = {"password": secret.get_secret_value()}
    return found | {"username": name} if name else found


def _read_tls(shown: str, options: dict[str, str]) -> dict[str, Any]:
    """Return the TLS arguments, and take theirs out of `options`."""
    place = settings.valkey
    given: Mapping[str, Any] = {name: options.pop(name) for name in _TLS_OPTIONS if name in options}
    found = {
        "ssl_ca_certs": place.SSL_CA_CERTS,
        "ssl_certfile": place.SSL_CERTFILE,
        "ssl_keyfile": place.SSL_KEYFILE,
        "ssl_cert_reqs": place.SSL_CERT_REQS,
        "ssl_check_hostname": place.SSL_CHECK_HOSTNAME,
        **given,
    }
    if found["ssl_cert_reqs"] not in _CHECKS:
        raise ConfigurationError(f"{shown}: ssl_cert_reqs is {', '.join(_CHECKS)}")
    if isinstance(found["ssl_check_hostname"], str):
        if found["ssl_check_hostname"].lower() not in _YES_OR_NO:
            raise ConfigurationError(f"{shown}: ssl_check_hostname is true or false")
        found["ssl_check_hostname"] = _YES_OR_NO[found["ssl_check_hostname"].lower()]
    return found

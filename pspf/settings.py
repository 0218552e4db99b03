"""The settings, from environment variables: the only reader of the environment.

`settings` reads them when the first one is asked for; no file is read. `PSPF_LEASE_MS=5000` is
`settings.LEASE_MS`, `VALKEY_HOST=db` is `settings.valkey.HOST`; an empty variable counts as unset.
Plain dataclasses, since pydantic and its settings cost every command 0.1 s of start-up.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from pspf.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr

_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})
_HIDDEN: Final = "***"


def _setting(default: Any, parse: Callable[[str], Any] = str, *, shows: bool = True) -> Any:
    return field(default=default, repr=shows, metadata={"parse": parse})


def _whole(default: int, *, low: int = 0, high: int | None = None) -> Any:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError("is no whole number") from None
        if number < low or (high is not None and number > high):
            raise ValueError(f"must be {low:,} or more" if high is None else f"must be {low:,} to {high:,}")
        return number

    return _setting(default, parse)


def _share(default: float) -> Any:
    """A number from 0 to 1."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ValueError("is no number") from None
        if not 0 <= number <= 1:
            raise ValueError("must be 0 to 1")
        return number

    return _setting(default, parse)


def _choice(default: str, *others: str) -> Any:
    """One of some words, in capital or small letters."""
    names = (default, *others)

    def parse(text: str) -> str:
        for name in names:
            if text.lower() == name.lower():
                return name
        raise ValueError(f"must be one of {', '.join(names)}")

    return _setting(default, parse)


def _parse_flag(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError("must be true or false")
    return text.lower() in _YES


def _parse_secret(text: str) -> "SecretStr":
    from pydantic import SecretStr  # start-up: only where there is a secret

    return SecretStr(text)


def _parse_retention(text: str) -> int:
    named = {"forever": -1, "consumed": 0}
    if text in named:
        return named[text]
    if not text.isdigit():
        raise ValueError("must be milliseconds, `forever` or `consumed`")
    return int(text)


@dataclass(frozen=True, slots=True)
class ValkeySettings:
    """Where Valkey is, from `VALKEY_...`. `IS_HOST_SET`: the host was named, and is no default."""

    HOST: str = _setting("127.0.0.1")
    PORT: int = _whole(6379, low=1, high=65535)
    DB: int = _whole(0)
    USERNAME: str | None = _setting(None)
    PASSWORD: "SecretStr | None" = _setting(None, _parse_secret)  # noqa: RUF009 (it makes a field)
    SSL: bool = _setting(False, _parse_flag)
    IS_HOST_SET: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, from `PSPF_...`. Times are milliseconds, sizes bytes."""

    ENV: str = _setting("dev")
    BACKEND: str | None = _setting(None, shows=False)  # may hold a password
    FAULT: str | None = _setting(None)
    LOG_LEVEL: str = _choice("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL")
    LOG_FORMAT: str = _choice("rich", "plain", "json")
    ADMIN_HOST: str = _setting("127.0.0.1")
    ADMIN_PORT: int = _whole(8001, high=65535)
    PROMETHEUS_PORT: int = _whole(8000, high=65535)

    # Leases and crashes. Unless it is set, RENEW_MS follows LEASE_MS: three tenths of it.
    LEASE_MS: int = _whole(10_000, low=100)
    RENEW_MS: int = _whole(3_000, low=10)
    MAX_CRASHES: int = _whole(3, low=1)
    LOOP_STALL_MS: int = _whole(30_000, low=100)
    DRAIN_TIMEOUT_MS: int = _whole(25_000)

    # Retries; MAX_ATTEMPTS counts the first run.
    RETRY_MAX_ATTEMPTS: int = _whole(5, low=1)
    RETRY_INITIAL_MS: int = _whole(200)
    RETRY_MAX_MS: int = _whole(60_000)
    RETRY_JITTER: float = _share(0.2)
    MAX_HELD_BACK: int = _whole(1_000, low=1)

    # The log. RETENTION_MS: -1 (`forever`) never trims, 0 (`consumed`) once all groups are done.
    EMIT_TIMEOUT_MS: int = _whole(30_000, low=1)
    DEDUP_WINDOW_MS: int = _whole(3_600_000)
    DEDUP_MAX_IDS: int = _whole(1_000_000)
    RETENTION_MS: int = _setting(7 * 24 * 3_600_000, _parse_retention)
    MAX_RECORD_BYTES: int = _whole(1 << 20, low=1)
    MAX_KEY_BYTES: int = _whole(1 << 10, low=1)
    MAX_HEADERS_BYTES: int = _whole(16 << 10, low=1)
    SQLITE_SYNCHRONOUS: str = _choice("FULL", "NORMAL")

    # Batches, and what one of them, or one record alone, may change.
    MIN_BATCH_RECORDS: int = _whole(10, low=1)
    MAX_BATCH_RECORDS: int = _whole(1_000, low=1)
    TARGET_COMMIT_MS: int = _whole(100, low=1)
    MAX_OPERATIONS: int = _whole(5_000, low=1)
    MAX_EFFECT_BYTES: int = _whole(4 << 20, low=1)
    MAX_RECORD_OPERATIONS: int = _whole(50_000, low=1)
    MAX_RECORD_EFFECT_BYTES: int = _whole(32 << 20, low=1)
    STATE_CACHE_KEYS: int = _whole(100_000)

    valkey: ValkeySettings = field(default_factory=ValkeySettings)


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that `environment` makes.

    Raises:
        ConfigurationError: A variable has a value that it can't have.
    """
    valkey = _read(ValkeySettings, "VALKEY_", environment)
    given = _read(Settings, "PSPF_", environment)
    if "LEASE_MS" in given and "RENEW_MS" not in given:
        given["RENEW_MS"] = min(3_000, given["LEASE_MS"] * 3 // 10)
    settings = Settings(**given, valkey=ValkeySettings(**valkey, IS_HOST_SET="HOST" in valkey))
    _refuse_above(settings, "RENEW_MS", "LEASE_MS")
    _refuse_above(settings, "MIN_BATCH_RECORDS", "MAX_BATCH_RECORDS")
    return settings


def _read(kind: type, prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of `kind` that the environment sets, by name."""
    given = {}
    for setting in fields(kind):
        variable = prefix + setting.name
        text = environment.get(variable, "").strip()
        if not text or "parse" not in setting.metadata:
            continue
        try:
            given[setting.name] = setting.metadata["parse"](text)
        except ValueError as error:
            raise ConfigurationError(f"{variable}={text!r:.80} {error}") from error
    return given


def _refuse_above(settings: Settings, low: str, high: str) -> None:
    if getattr(settings, low) > getattr(settings, high):
        raise ConfigurationError(
            f"PSPF_{low}={getattr(settings, low)} is above PSPF_{high}={getattr(settings, high)}; lower the first"
        )


def describe_settings(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """Return the settings by variable, in the order of the class; secrets are hidden."""
    described: dict[str, str | int | float | bool | None] = {}
    for prefix, part in (("PSPF_", settings), ("VALKEY_", settings.valkey)):
        for setting in fields(Settings if part is settings else ValkeySettings):
            if "parse" not in setting.metadata:
                continue
            value = getattr(part, setting.name)
            if setting.metadata["parse"] is _parse_secret and value is not None:
                value = _HIDDEN
            described[prefix + setting.name] = hide_password(value) if setting.name == "BACKEND" and value else value
    return described


def hide_password(url: str) -> str:
    """Return `url` without its password, for logs and errors; text that is no URL is cut at the last @."""
    try:
        parts = urlsplit(url)
        netloc, query = parts.netloc, parts.query
    except ValueError:
        return f"{_HIDDEN}@{url.rpartition('@')[2]}" if "@" in url else url
    if "@" in netloc:
        user, _, host = netloc.rpartition("@")
        user, colon, _ = user.partition(":")
        netloc = f"{user}:{_HIDDEN}@{host}" if colon else f"{user}@{host}"
    elif "@" in parts.path:  # a password with a slash, or a URL without its //
        scheme = f"{parts.scheme}://" if parts.scheme else ""
        return f"{scheme}{_HIDDEN}@{url.rpartition('@')[2]}"
    secrets = ("password=", "token=", "secret=")
    query = "&".join(
        f"{pair.partition('=')[0]}={_HIDDEN}" if pair.lower().startswith(secrets) else pair for pair in query.split("&")
    )
    # Not urlunsplit alone: it turns sqlite:///x into sqlite:/x for schemes that it doesn't know.
    if parts.scheme and not netloc and url.startswith(f"{parts.scheme}://"):
        return f"{parts.scheme}://{parts.path}" + (f"?{query}" if query else "")
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


if TYPE_CHECKING:

    class LazySettings(Settings):
        """`Settings` that are read on first use."""

        def reload(self) -> None:
            """Read the environment again, now."""
else:

    class LazySettings:
        """`Settings` that are read on first use."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name not in Settings.__dataclass_fields__:
                raise AttributeError(f"no setting {name!r}")
            self.reload()
            return getattr(self, name)

        def reload(self) -> None:
            """Read the environment again, now."""
            loaded = load_settings(os.environ)
            self.__dict__.update({setting.name: getattr(loaded, setting.name) for setting in fields(Settings)})


settings: Final = LazySettings()

"""Models of the settings, with defaults and bounds.

Only that module imports this one, on first use.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from pspf.errors import ConfigurationError
from pspf.events.durations import parse_duration
from pspf.settings import hide_password

_HIDDEN = "***"
_RETENTIONS = {"forever": -1, "consumed": 0}
_HELD_TO = {
    "RENEW_MS": "LEASE_MS",
    "MIN_BATCH_RECORDS": "MAX_BATCH_RECORDS",
    "RETRY_INITIAL_MS": "RETRY_MAX_MS",
    "RESTART_INITIAL_MS": "RESTART_MAX_MS",
}

_AnyPort = Annotated[int, Field(ge=0, le=65535)]  # 0: any that is free
_Upper = BeforeValidator(str.upper)
_Lower = BeforeValidator(str.lower)
_Retention = Annotated[
    int,
    BeforeValidator(lambda text: _RETENTIONS.get(text, text)),
    Field(ge=-1, description="milliseconds, `forever` or `consumed`"),
]


def _follow_lease(earlier: dict[str, Any]) -> int:
    # pydantic 2.10 and 2.11 ask even when the lease was refused, which is then the error that is reported.
    lease_ms: int = earlier.get("LEASE_MS", 0)
    return min(3_000, lease_ms * 3 // 10)


class _Variables(BaseSettings):
    """Settings that come from the variables which `read` is given, and from nowhere else."""

    # The inputs of a failed model hold secrets, and a traceback would print them.
    model_config = SettingsConfigDict(case_sensitive=True, frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # what `read` found; no file, and not the process's environment a second time

    @classmethod
    def read(cls, environment: Mapping[str, str], **others: Any) -> Self:
        """Return the settings that `environment`, and `others` by field, make.

        Raises:
            ConfigurationError: A variable has a value that it can't have.
        """
        source = EnvSettingsSource(cls)
        source.env_vars = environment
        try:
            return cls(**source(), **others)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # of several settings together; the message names them
                raise ConfigurationError(first["msg"]) from error
            name = str(first["loc"][0])
            variable, description = cls.variable(name), cls.model_fields[name].description
            reason = f"{first['msg']} ({description})" if description else first["msg"]
            raise ConfigurationError(f"{variable}={_hide(name, environment[variable])!r:.80}: {reason}") from error

    @classmethod
    def variable(cls, name: str) -> str:
        """Return the variable of a field."""
        return f"{cls.model_config['env_prefix']}{name}"


class ValkeySettings(_Variables):
    """Where Valkey is, from `VALKEY_...`."""

    model_config = SettingsConfigDict(env_prefix="VALKEY_")

    HOST: str = "127.0.0.1"
    PORT: Annotated[int, Field(ge=1, le=65535)] = 6379
    DB: NonNegativeInt = 0
    USERNAME: str | None = None
    PASSWORD: SecretStr | None = None
    SSL: bool = False
    SSL_CA_CERTS: str | None = None
    SSL_CERTFILE: str | None = None
    SSL_KEYFILE: str | None = None
    SSL_CERT_REQS: Annotated[Literal["required", "optional", "none"], _Lower] = "required"
    SSL_CHECK_HOSTNAME: bool = True
    UNIX_SOCKET_PATH: str | None = None

    @property
    def IS_HOST_SET(self) -> bool:  # noqa: N802 (it reads like the settings beside it)
        """Whether a place was named, and is no default."""
        return bool({"HOST", "UNIX_SOCKET_PATH"} & self.model_fields_set)


class Settings(_Variables):
    """All settings, from `PSPF_...`. Times are milliseconds, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="PSPF_")

    ENV: str = "dev"
    BACKEND: str | None = Field(default=None, repr=False)  # may hold a password
    FAULT: str | None = None
    LOG_LEVEL: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], _Upper] = "INFO"
    LOG_FORMAT: Annotated[Literal["rich", "plain", "json"], _Lower] = "rich"

    # A worker's admin: HOST:PORT or off. The ports are those to begin with; one that is set counts as asked for,
    # and PROMETHEUS_PORT then adds a listener for metrics alone, as METRICS does. ADMIN_HOSTS are further names
    # that requests may call this host by, separated by commas.
    ADMIN: str | None = None
    ADMIN_HOST: str = "127.0.0.1"
    ADMIN_PORT: _AnyPort = 8001
    ADMIN_TOKEN: SecretStr | None = None
    ADMIN_TOKEN_FILE: str | None = None
    ADMIN_HOSTS: str | None = None
    METRICS: str | None = None
    PROMETHEUS_PORT: _AnyPort = 8000

    # Leases and crashes. Unless it is set, RENEW_MS follows LEASE_MS: three tenths of it.
    LEASE_MS: Annotated[int, Field(ge=100)] = 10_000
    RENEW_MS: int = Field(default_factory=_follow_lease, ge=10)
    MAX_CRASHES: PositiveInt = 3
    LOOP_STALL_MS: Annotated[int, Field(ge=1_000)] = 30_000  # loops and processes show themselves about once a second
    DRAIN_TIMEOUT_MS: NonNegativeInt = 25_000

    # Whether handlers start though their group has cursors of others, which the app lacks: renamed ones, say.
    ACCEPT_ORPHANS: bool = False

    # A worker's processes: how long one that crashed waits, and after how long it counts as healthy.
    RESTART_INITIAL_MS: PositiveInt = 1_000
    RESTART_MAX_MS: PositiveInt = 60_000
    HEALTHY_MS: PositiveInt = 60_000

    # Retries; MAX_ATTEMPTS counts the first run.
    RETRY_MAX_ATTEMPTS: PositiveInt = 5
    RETRY_INITIAL_MS: NonNegativeInt = 200
    RETRY_MAX_MS: NonNegativeInt = 60_000
    RETRY_JITTER: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.2
    MAX_HELD_BACK: PositiveInt = 1_000

    # The log. RETENTION_MS: -1 (`forever`) never trims, 0 (`consumed`) once all groups are done.
    EMIT_TIMEOUT_MS: PositiveInt = 30_000
    DEDUP_WINDOW_MS: NonNegativeInt = 3_600_000
    DEDUP_MAX_IDS: NonNegativeInt = 1_000_000
    RETENTION_MS: _Retention = 7 * 24 * 3_600_000
    MAX_RECORD_BYTES: PositiveInt = 1 << 20
    MAX_KEY_BYTES: PositiveInt = 1 << 10
    MAX_HEADERS_BYTES: PositiveInt = 16 << 10
    SQLITE_SYNCHRONOUS: Annotated[Literal["FULL", "NORMAL"], _Upper] = "FULL"

    # Batches, and what one of them, or one record alone, may change: at most what a commit can hold.
    MIN_BATCH_RECORDS: PositiveInt = 1
    MAX_BATCH_RECORDS: PositiveInt = 1_000
    MAX_WINDOW_BATCH_RECORDS: PositiveInt = 5_000  # of windowed handlers: a state that changed is written once a commit
    TARGET_COMMIT_MS: PositiveInt = 100
    MAX_OPERATIONS: Annotated[int, Field(ge=1, le=5_000)] = 5_000
    MAX_EFFECT_BYTES: Annotated[int, Field(ge=1, le=4 << 20)] = 4 << 20
    MAX_RECORD_OPERATIONS: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    MAX_RECORD_EFFECT_BYTES: Annotated[int, Field(ge=1, le=32 << 20)] = 32 << 20
    STATE_CACHE_ENTRIES: NonNegativeInt = 100_000  # values of `ctx.state`, of each handler and partition
    WINDOW_CACHE_STATES: PositiveInt = 1_000_000  # of each windowed handler and partition

    valkey: ValkeySettings = Field(default_factory=ValkeySettings)

    def is_set(self, name: str) -> bool:
        """Whether a setting was given, and is no default."""
        return name in self.model_fields_set

    @model_validator(mode="after")
    def _hold(self) -> Self:
        for low, high in _HELD_TO.items():
            if getattr(self, low) > getattr(self, high):
                lower, upper = (f"{self.variable(name)}={getattr(self, name)}" for name in (low, high))
                raise PydanticCustomError("above", f"{lower} is above {upper}; lower the first")
        return self


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings that `environment` makes; an empty variable counts as unset.

    Raises:
        ConfigurationError: A variable has a value that it can't have.
    """
    given = {variable: _as_setting(variable, text.strip()) for variable, text in environment.items() if text.strip()}
    return Settings.read(given, valkey=ValkeySettings.read(given))


def _as_setting(variable: str, text: str) -> str:
    """Return a setting as its field reads it: a duration with a unit, such as `10s`, in milliseconds."""
    if not (variable.startswith("PSPF_") and variable.endswith("_MS")):
        return text
    try:
        return str(parse_duration(text, bare_unit="ms")) if text[-1].isalpha() else text
    except ValueError:
        return text  # a word, or none: the field knows


def describe_settings(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """Return the settings by variable, in the order of the class; secrets are hidden."""
    described: dict[str, str | int | float | bool | None] = {}
    for kind, part in ((Settings, settings), (ValkeySettings, settings.valkey)):
        for name in kind.model_fields:
            if name != "valkey":
                described[kind.variable(name)] = _hide(name, getattr(part, name))
    return described


def _hide(name: str, value: Any) -> Any:
    """Return the value of a setting as it may be shown."""
    if value is None or name not in ("BACKEND", "PASSWORD", "ADMIN_TOKEN"):
        return value
    return hide_password(value) if name == "BACKEND" else _HIDDEN

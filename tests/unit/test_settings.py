"""Settings from the environment."""

import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

import pspf.settings
from pspf.errors import ConfigurationError
from pspf.settings import LazySettings, describe_settings, hide_password, load_settings


def test_the_defaults_are_those_of_the_docs() -> None:
    settings = load_settings({})
    assert (settings.ENV, settings.BACKEND, settings.FAULT) == ("dev", None, None)
    assert (settings.LEASE_MS, settings.RENEW_MS, settings.MAX_CRASHES) == (10_000, 3_000, 3)
    assert (settings.RETRY_MAX_ATTEMPTS, settings.RETRY_INITIAL_MS, settings.RETRY_MAX_MS) == (5, 200, 60_000)
    assert (settings.MAX_RECORD_BYTES, settings.MAX_KEY_BYTES, settings.MAX_HEADERS_BYTES) == (1 << 20, 1024, 16_384)
    assert (settings.DEDUP_WINDOW_MS, settings.DEDUP_MAX_IDS) == (3_600_000, 1_000_000)
    assert (settings.EMIT_TIMEOUT_MS, settings.LOOP_STALL_MS, settings.DRAIN_TIMEOUT_MS) == (30_000, 30_000, 25_000)
    assert (settings.MIN_BATCH_RECORDS, settings.MAX_BATCH_RECORDS, settings.TARGET_COMMIT_MS) == (1, 1_000, 100)
    assert (settings.valkey.HOST, settings.valkey.PORT, settings.valkey.IS_HOST_SET) == ("127.0.0.1", 6379, False)


def test_variables_set_them_and_empty_ones_do_not() -> None:
    environment = {
        "PSPF_LEASE_MS": "5_000",
        "PSPF_LOG_LEVEL": "debug",
        "PSPF_RETRY_JITTER": "0.5",
        "PSPF_ENV": "",
        "PSPF_UNKNOWN": "x",
        "VALKEY_HOST": "127.0.0.1",
        "VALKEY_SSL": "yes",
        "VALKEY_PASSWORD": "s3cret",
    }
    settings = load_settings(environment)
    assert (settings.LEASE_MS, settings.LOG_LEVEL, settings.RETRY_JITTER, settings.ENV) == (5_000, "DEBUG", 0.5, "dev")
    assert settings.valkey.IS_HOST_SET
    assert settings.valkey.SSL
    assert settings.valkey.PASSWORD is not None
    assert settings.valkey.PASSWORD.get_secret_value() == "s3cret"


def test_the_renewal_follows_the_lease_unless_it_is_set() -> None:
    assert load_settings({"PSPF_LEASE_MS": "1000"}).RENEW_MS == 300
    assert load_settings({"PSPF_LEASE_MS": "60000"}).RENEW_MS == 3_000
    assert load_settings({"PSPF_LEASE_MS": "1000", "PSPF_RENEW_MS": "500"}).RENEW_MS == 500


def test_retention_is_a_number_or_a_word() -> None:
    assert load_settings({"PSPF_RETENTION_MS": "forever"}).RETENTION_MS == -1
    assert load_settings({"PSPF_RETENTION_MS": "consumed"}).RETENTION_MS == 0
    assert load_settings({"PSPF_RETENTION_MS": "60000"}).RETENTION_MS == 60_000


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("PSPF_LEASE_MS", "soon", "Input should be a valid integer"),
        ("PSPF_LEASE_MS", "5", "greater than or equal to 100"),
        ("PSPF_ADMIN_PORT", "70000", "less than or equal to 65535"),
        ("PSPF_RETRY_JITTER", "2", "less than 1"),
        ("PSPF_RETRY_JITTER", "nan", "Input should be a finite number"),
        ("PSPF_LOG_LEVEL", "loud", "Input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("PSPF_SQLITE_SYNCHRONOUS", "OFF", "Input should be 'FULL' or 'NORMAL'"),
        ("PSPF_RETENTION_MS", "-5", "milliseconds, `forever` or `consumed`"),
        ("VALKEY_PORT", "0", "greater than or equal to 1"),
        ("VALKEY_SSL", "perhaps", "Input should be a valid boolean"),
        ("PSPF_RENEW_MS", "20000", "is above PSPF_LEASE_MS=10000; lower the first"),
        ("PSPF_MIN_BATCH_RECORDS", "2000", "is above PSPF_MAX_BATCH_RECORDS=1000; lower the first"),
        ("PSPF_RETRY_MAX_MS", "100", "PSPF_RETRY_INITIAL_MS=200 is above PSPF_RETRY_MAX_MS=100"),
        ("PSPF_RETRY_JITTER", "1", "less than 1"),
        ("PSPF_MAX_OPERATIONS", "5001", "less than or equal to 5000"),
        ("PSPF_MAX_RECORD_EFFECT_BYTES", "99999999", "less than or equal to"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable}={text}|{variable}='{text}'") as caught:
        load_settings({variable: text})
    assert reason in str(caught.value)


def test_the_environment_is_read_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LazySettings()
    monkeypatch.setenv("PSPF_ENV", "first")
    assert settings.ENV == "first"
    monkeypatch.setenv("PSPF_ENV", "second")
    assert settings.ENV == "first"
    settings.reload()
    assert settings.ENV == "second"
    with pytest.raises(AttributeError, match="no setting 'NOPE'"):
        _ = settings.NOPE  # type: ignore[attr-defined]


def test_pydantic_is_imported_with_the_first_setting() -> None:
    code = "import sys, pspf.settings as s; print('pydantic' in sys.modules, s.settings.ENV, 'pydantic' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False dev True\n"


def test_the_names_of_the_module_can_be_imported() -> None:
    module: Any = pspf.settings
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=r"'pspf\.settings' has no attribute 'nope'"):
        _ = module.nope
    assert not hasattr(LazySettings(), "__wrapped__")


def test_settings_come_from_nowhere_but_the_given_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSPF_ENV", "process")
    monkeypatch.setenv("VALKEY_HOST", "process")
    (tmp_path / ".env").write_text("PSPF_ENV=file\n")
    settings = load_settings({"pspf_env": "small", "PSPF_MAX_CRASHES": " ", "PSPF_FAULT": ""})
    assert (settings.ENV, settings.valkey.HOST, settings.MAX_CRASHES, settings.FAULT) == ("dev", "127.0.0.1", 3, None)


@pytest.mark.parametrize(
    "environment",
    [
        {"PSPF_RENEW_MS": "20000"},
        {"PSPF_LEASE_MS": "soon"},
        {"VALKEY_PORT": "soon"},
    ],
)
def test_a_traceback_shows_no_secret(environment: dict[str, str]) -> None:
    secrets = {"PSPF_BACKEND": "valkey://u:s3cret@h:1", "VALKEY_PASSWORD": "s3cret"}
    with pytest.raises(ConfigurationError, match=next(iter(environment))) as caught:
        load_settings(secrets | environment)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_secrets_are_not_described() -> None:
    secrets = {"VALKEY_PASSWORD": "s3cret", "PSPF_BACKEND": "valkey://u:s3cret@h:1", "PSPF_ADMIN_TOKEN": "s3cret-token"}
    settings = load_settings(secrets)
    described = describe_settings(settings)
    assert described["PSPF_ADMIN_TOKEN"] == "***"
    assert described["PSPF_LEASE_MS"] == 10_000
    assert described["VALKEY_PASSWORD"] == "***"
    assert described["PSPF_BACKEND"] == "valkey://u:***@h:1"
    assert "s3cret" not in f"{described}{settings!r}{settings.valkey!r}"


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("sqlite:////a/b.db?synchronous=NORMAL", "sqlite:////a/b.db?synchronous=NORMAL"),
        ("memory://", "memory://"),
        ("valkey://host:6379/0", "valkey://host:6379/0"),
        ("valkey://user:s3cret@host:6379/0", "valkey://user:***@host:6379/0"),
        ("valkey://:s3cret@host", "valkey://:***@host"),
        ("valkey://:s3/cret@host", "valkey://***@host"),
        ("valkey://:s3cret@2@host", "valkey://:***@host"),
        ("valkey:s3cret@host", "valkey://***@host"),
        ("s3cret@[bad", "***"),
        ("redis://host?password=s3cret&db=1", "redis://host?password=***&db=1"),
        ("redis://host?pwd=s3cret&ssl_cert_reqs=none", "redis://host?pwd=***&ssl_cert_reqs=none"),
    ],
)
def test_a_password_is_hidden(url: str, hidden: str) -> None:
    assert hide_password(url) == hidden


def test_a_setting_that_was_given_is_told_from_a_default() -> None:
    given = load_settings({"PSPF_ADMIN_PORT": "8001", "PSPF_METRICS": " "})
    assert given.is_set("ADMIN_PORT")
    assert not given.is_set("PROMETHEUS_PORT")
    assert not given.is_set("METRICS")

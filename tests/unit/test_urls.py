"""From a URL, or the settings, to a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pspf.connectors.urls import find_default_file, make_backend, make_broker, make_limits, safe_url
from pspf.errors import ConfigurationError, NotAvailable
from pspf.settings import settings


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    settings.reload()
    yield
    monkeypatch.undo()
    settings.reload()


def set_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    settings.reload()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///rel.db", "sqlite:///rel.db"),
        ("sqlite:////abs/it.db", "sqlite:////abs/it.db"),
        ("sqlite:///a%20b.db?synchronous=normal", "sqlite:///a b.db"),
        ("memory://", "memory://"),
        ("memory", "memory://"),
    ],
)
def test_a_url_makes_a_broker_and_opens_nothing(url: str, name: str, tmp_path: Path) -> None:
    assert make_broker(url).name == name
    assert list(tmp_path.iterdir()) == []


def test_the_default_is_the_project_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"sqlite:///{tmp_path}/.pspf/broker.db"
    assert make_broker().name == expected
    assert make_broker("sqlite").name == expected
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "src" / "deep")
    assert make_broker().name == expected
    (tmp_path / "src" / ".pspf").mkdir()
    assert make_broker("sqlite://").name == f"sqlite:///{tmp_path}/src/.pspf/broker.db"


def test_the_nearest_project_counts(tmp_path: Path) -> None:
    assert find_default_file(tmp_path) == tmp_path / ".pspf" / "broker.db"


def test_the_settings_choose_where_no_url_does(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "PSPF_BACKEND", "sqlite:///chosen.db")
    assert make_broker().name == "sqlite:///chosen.db"
    assert make_broker("memory").name == "memory://"


def test_a_set_valkey_host_asks_for_valkey_and_is_no_silent_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_HOST", "db")
    with pytest.raises(NotAvailable, match="VALKEY_HOST=db, which asks for Valkey"):
        make_broker()


def test_another_environment_than_dev_asks_for_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "PSPF_ENV", "production")
    with pytest.raises(NotAvailable, match="PSPF_ENV=production"):
        make_broker()
    assert make_broker("sqlite:///x.db").name == "sqlite:///x.db"


@pytest.mark.parametrize(
    "url",
    [
        "valkey",
        "redis://host",
        "valkeys://u:s3cret@host:1/0",
        "rediss://:s3cret@host",
        "valkey+cluster://u:s3cret@h",
        "valkey+sentinel://u:s3/cret@h",
    ],
)
def test_valkey_is_not_available_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(NotAvailable, match="embedded broker only") as caught:
        make_broker(url)
    assert "s3cret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlit:///x.db", "did you mean sqlite"),
        ("kafka://host", "no broker is called 'kafka'"),
        ("sqlite:x.db", "three slashes"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///x.db?sync=1", "no option 'sync'"),
        ("sqlite:///x.db?synchronous=OFF", "synchronous is FULL or NORMAL"),
        ("sqlite:///x.db?synchronous", "sqlite:///x.db"),
        ("memory://name", "memory:// has no name"),
        ("memory:", "two slashes"),
        ("valkey:s3cret@host", "two slashes"),
        ("/tmp/x.db", "a file is sqlite:///rel.db"),
        ("x.db", "a file is sqlite:///rel.db"),
        ("C:\\x.db", "a file is sqlite:///rel.db"),
        ("http://[bad", "is no URL"),
    ],
)
def test_what_is_no_broker_is_explained(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_broker(url)
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_limits_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "PSPF_LEASE_MS", "2000")
    set_variable(monkeypatch, "PSPF_SQLITE_SYNCHRONOUS", "NORMAL")
    limits = make_limits()
    assert (limits.lease_ms, limits.renew_ms, limits.synchronous) == (2_000, 600, "NORMAL")
    assert make_limits("FULL").synchronous == "FULL"


def test_a_backend_is_a_topic_and_a_group_on_a_broker() -> None:
    backend = make_backend("orders", "billing", "sqlite:///x.db")
    assert (backend.stream_key, backend.group_name, backend.broker.name) == ("orders", "billing", "sqlite:///x.db")


def test_a_safe_url_has_no_password() -> None:
    assert safe_url("valkey://u:s3cret@h/0") == "valkey://u:***@h/0"

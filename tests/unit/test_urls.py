"""From a URL, or the settings, to a broker."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pspf.connectors.urls import find_default_file, make_backend, make_broker, make_limits, safe_url
from pspf.connectors.valkey.connection.url import parse_server
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


def test_a_set_valkey_host_asks_for_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_HOST", "db")
    set_variable(monkeypatch, "VALKEY_PORT", "6380")
    set_variable(monkeypatch, "VALKEY_DB", "3")
    assert make_broker().name == "valkey://db:6380/3"
    assert make_broker("valkey").name == "valkey://db:6380/3"
    assert make_broker("sqlite:///x.db").name == "sqlite:///x.db"


def test_a_set_unix_socket_asks_for_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_UNIX_SOCKET_PATH", "/run/valkey.sock")
    assert make_broker().name == "valkey+unix:///run/valkey.sock?db=0"


def test_another_environment_than_dev_asks_for_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "PSPF_ENV", "production")
    assert make_broker().name == "valkey://127.0.0.1:6379/0"
    assert make_broker("sqlite:///x.db").name == "sqlite:///x.db"


def test_tls_of_the_settings_counts_where_the_place_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_SSL", "true")
    assert make_broker("valkey").name == "valkeys://127.0.0.1:6379/0"
    assert make_broker("valkey://other").name == "valkey://other:6379/0"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("valkey://host", "valkey://host:6379/0"),
        ("redis://host:1/2", "valkey://host:1/2"),
        ("valkeys://u:s3cret@host:1/0", "valkeys://u@host:1/0"),
        ("rediss://:s3cret@host", "valkeys://host:6379/0"),
        ("valkey://[::1]:7000/1", "valkey://[::1]:7000/1"),
        ("valkey://host?db=4", "valkey://host:6379/4"),
        ("valkey+unix:///run/v.sock?db=1", "valkey+unix:///run/v.sock?db=1"),
        ("unix://:s3cret@/run/v%20k.sock", "valkey+unix:///run/v k.sock?db=0"),
    ],
)
def test_a_url_of_a_server_makes_a_broker_whose_name_has_no_secret(url: str, name: str) -> None:
    broker = make_broker(url)
    assert broker.name == name
    assert broker.capabilities.multi_process


def read_server(url: str) -> dict[str, object]:
    return parse_server(url, urlsplit(url))


def test_user_and_password_are_the_url_s(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_USERNAME", "other")
    set_variable(monkeypatch, "VALKEY_PASSWORD", "other")
    given = read_server("valkey://u%40home:s3%2Fcret@host")
    assert (given["username"], given["password"]) == ("u@home", "s3/cret")
    assert "username" not in read_server("valkey://:s3cret@host")


def test_user_and_password_come_from_the_settings_where_a_url_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_USERNAME", "worker")
    set_variable(monkeypatch, "VALKEY_PASSWORD", "s3cret")
    given = read_server("valkey://host")
    assert (given["username"], given["password"]) == ("worker", "s3cret")
    assert read_server("valkey://me@host")["username"] == "me"


def test_the_files_of_tls_come_from_the_url_or_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "VALKEY_SSL_CA_CERTS", "/ca.pem")
    set_variable(monkeypatch, "VALKEY_SSL_CERT_REQS", "Optional")
    given = read_server("valkeys://host?ssl_certfile=/me.pem&ssl_check_hostname=no")
    assert given["ssl"] is True
    assert (given["ssl_ca_certs"], given["ssl_certfile"]) == ("/ca.pem", "/me.pem")
    assert (given["ssl_cert_reqs"], given["ssl_check_hostname"]) == ("optional", False)
    assert "ssl" not in read_server("valkey://host")


@pytest.mark.parametrize("url", ["valkey+cluster://u:s3cret@h", "valkey+sentinel://u:s3/cret@h", "rediss+cluster://h"])
def test_cluster_and_sentinel_are_not_available_and_the_password_not_shown(url: str) -> None:
    with pytest.raises(NotAvailable, match="neither Cluster nor Sentinel") as caught:
        make_broker(url)
    assert "s3cret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlit:///x.db", "did you mean sqlite"),
        ("kafka://host", "no broker is called 'kafka'"),
        ("kafka://host", "use sqlite:///path.db, valkey://host:6379/0 or memory://"),
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
        ("valkey://u:s3cret/x@host", "%2F"),
        ("valkey://host:port", "port is no number"),
        ("valkey://:s3cret@", "names no host"),
        ("valkey://host/x", "the database is a number"),
        ("valkey://host?db=-1", "the database is a number"),
        ("valkey://host?ssl_certfile=x", "no option 'ssl_certfile' here"),
        ("valkeys://host?ssl_cert_reqs=some", "ssl_cert_reqs is required"),
        ("valkeys://host?ssl_check_hostname=some", "true or false"),
        ("valkey://u:s3cret@host#0", "%23"),
        ("unix://host/run/v.sock", "path alone"),
        ("valkey+unix://", "path alone"),
        ("valkey://user@host", "has no password"),
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

"""A broker's URL for another process of ours makes the same broker there."""

from pathlib import Path

import pytest

from pspf.connectors.memory import MemoryBroker
from pspf.connectors.sqlite import SQLiteBroker
from pspf.connectors.urls import make_broker
from pspf.connectors.valkey import ValkeyBroker, ValkeyConnector
from pspf.errors import ConfigurationError
from pspf.settings import hide_password, hide_passwords

SECRET = "p@ss/w:rd?#%"
CONNECTORS = {
    "plain": ValkeyConnector("db.example", 6380, 3),
    "ipv6": ValkeyConnector("::1", 6380),
    "password": ValkeyConnector(password=SECRET),
    "user": ValkeyConnector("db", username="a:b@c", password=SECRET),
    "tls": ValkeyConnector("db", password=SECRET, ssl=True, ssl_ca_certs="/a b/ca.pem", ssl_cert_reqs="optional"),
    "tls, unchecked": ValkeyConnector("db", ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False),
    "socket": ValkeyConnector(unix_socket_path="/run/a b.sock", db=2, username="u", password=SECRET),
}


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_server_is_reached_in_the_same_way(name: str) -> None:
    connector = CONNECTORS[name]
    made = make_broker(ValkeyBroker(connector).secret_url)
    assert isinstance(made, ValkeyBroker)
    assert made._core.connector._options == connector._options
    assert made.name == connector.name


def test_a_file_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_broker(SQLiteBroker(Path("my broker?.db")).secret_url)
    assert made.name == f"sqlite:///{tmp_path}/my broker?.db"


def test_what_lives_in_one_process_has_none() -> None:
    assert MemoryBroker().secret_url is None


@pytest.mark.parametrize("name", [name for name in CONNECTORS if "un" not in name and name not in ("plain", "ipv6")])
def test_a_shown_url_has_no_password(name: str) -> None:
    url = ValkeyBroker(CONNECTORS[name]).secret_url
    assert "p%40ss" in url
    assert "p%40ss" not in hide_password(url)


MISTYPED = (
    "valkey://:hunter?two2secret@127.0.0.1:6379/0",
    "valkey://bob:hun@ter?two2secret@127.0.0.1:6379/0",
    "valkey://:hun@ter/two2secret@127.0.0.1:6379/0",
    "valkey://:hun#two2secret@127.0.0.1:6379/0",
    "valkeys://u:two2secret?x=hunter@h",
    "redis://two2secret:6379@[bad/0",
    "valkey://two2secret@h:port/0",
    "two2secret@host:6379",
    "bob:two2secret@host:6379",
    "valkey://host/0?password=hunter@two2secret",
    "valky://two2secret:hunter@host",
    "http://two2secret@hunter@host",
)


@pytest.mark.parametrize("url", MISTYPED)
def test_a_password_that_was_not_escaped_is_in_no_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make_broker(url)
    for text in (str(refused.value), hide_password(url)):
        assert "two2secret" not in text
        assert "hunter" not in text


@pytest.mark.parametrize("url", ["valkeys://host/0?ssl_ca_certs=/etc/a@b.pem", "valkey+unix:///run/a@b.sock"])
def test_an_at_in_the_name_of_a_file_is_no_password(url: str) -> None:
    assert isinstance(make_broker(url), ValkeyBroker)


def test_passwords_of_urls_in_texts_are_hidden() -> None:
    assert hide_passwords("can't reach 'redis://u:p@w/x@h:1' or a@b") == "can't reach 'redis://u:***@h:1' or a@b"

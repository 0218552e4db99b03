"""Where a worker listens, by default and where it was told to."""

import socket
from collections.abc import Iterator

import pytest

from pspf.errors import ConfigurationError
from pspf.runtime.control.ports import Address, bind, parse_address


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:9000", "192.0.2.1", 9000),
        (":9000", "127.0.0.1", 9000),
        ("9000", "127.0.0.1", 9000),
        ("localhost", "localhost", 8001),
        ("localhost:0", "localhost", 0),
        ("[::1]:9000", "::1", 9000),
    ],
)
def test_what_an_address_leaves_out_is_the_default(text: str, host: str, port: int) -> None:
    assert parse_address("--admin", text, host="127.0.0.1", port=8001) == Address(host, port, is_asked=True)


@pytest.mark.parametrize("text", ["host:http", "host:70000", "::1", "[::1", "host:-1", "host:٣"])
def test_what_is_no_address_is_said_with_its_option(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--admin"):
        parse_address("--admin", text, host="127.0.0.1", port=8001)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("192.0.2.1", False), ("db", False)],
)
def test_only_the_loopback_is_for_this_machine_alone(host: str, is_loopback: bool) -> None:
    assert Address(host, 1, is_asked=True).is_loopback is is_loopback


def test_a_default_port_that_is_taken_is_passed_over(taken: int) -> None:
    listener = bind("--admin", Address("127.0.0.1", taken, is_asked=False))
    assert taken < listener.port < taken + 100
    listener.close()


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(taken: int) -> None:
    with pytest.raises(ConfigurationError, match=f"--admin 127.0.0.1:{taken}: Address already in use"):
        bind("--admin", Address("127.0.0.1", taken, is_asked=True))


def test_port_0_takes_any_and_says_which() -> None:
    listener = bind("--admin", Address("127.0.0.1", 0, is_asked=True))
    assert listener.url == f"http://127.0.0.1:{listener.port}/"
    assert listener.port > 0
    listener.close()


def test_a_bound_port_is_taken_at_once() -> None:
    listener = bind("--admin", Address("127.0.0.1", 0, is_asked=True))
    with pytest.raises(ConfigurationError):
        bind("--metrics", Address("127.0.0.1", listener.port, is_asked=True))
    listener.close()


def test_a_host_that_is_not_here_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no such host"):
        bind("--admin", Address("no.such.host.invalid", 0, is_asked=True))

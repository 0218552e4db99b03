"""Ports of a worker: bound before anything runs, so that a mistake ends it at once."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from pspf.errors import ConfigurationError

OFF: Final = "off"
_TRIED_PORTS: Final = 100
"""So many ports from the default one on are tried: workers beside one another each get their own."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, 0 for any. One that was asked for is taken as it is, or not at all."""

    host: str
    port: int
    is_asked: bool

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can get there."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket, which listens once somebody serves it."""

    socket: socket.socket
    address: Address

    @property
    def port(self) -> int:
        """The port that it got."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where to find it, with a slash at the end."""
        host = self.address.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 (it is looked for, not bound)
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def close(self) -> None:
        """Give the port back."""
        self.socket.close()


def parse_address(option: str, text: str, *, host: str, port: int) -> Address:
    """Return the address of `HOST:PORT`, `[IPv6]:PORT`, `HOST` or `PORT`; what it leaves out is `host` and `port`.

    Raises:
        ConfigurationError: It is none.
    """
    given = text.strip()
    if given.startswith("["):
        name, bracket, rest = given[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ConfigurationError(f"{option} {text!r}: write [HOST]:PORT")
        number = rest[1:]
    elif given.count(":") > 1:
        raise ConfigurationError(f"{option} {text!r}: write an IPv6 address in brackets, [{given}]:{port}")
    elif ":" in given:
        name, _, number = given.partition(":")
    else:
        name, number = ("", given) if given.isdigit() else (given, "")
    if number and not (number.isascii() and number.isdigit() and int(number) <= 65535):
        raise ConfigurationError(f"{option} {text!r}: the port is a number from 0 to 65535; HOST:PORT, or {OFF}")
    return Address(name or host, int(number) if number else port, is_asked=True)


def bind(option: str, address: Address) -> Listener:
    """Bind a socket to an address; a default port that is taken is passed over for the next free one.

    Raises:
        ConfigurationError: There is no such host here, or the port that was asked for is taken.
    """
    ports = [address.port] if address.is_asked else range(address.port, address.port + _TRIED_PORTS)
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(f"{option} {address.host}: no such host ({error.strerror})") from None
    for port in ports:
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((place[0], port, *place[2:]))
            bound.listen(1)  # from here on the port is taken for everybody else
        except OSError as error:
            bound.close()
            refusal = error
        else:
            return Listener(bound, address)
    raise ConfigurationError(
        f"{option} {address.host}:{address.port}: {refusal.strerror}\n"
        f"  name another port, 0 for any that is free, or {OFF}"
    )

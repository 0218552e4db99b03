"""Access control of the admin: host, origin and token are checked before an endpoint sees the request.

A page of another site, open in the administrator's browser, is the likeliest attacker: it can send requests to
127.0.0.1. It can't set the Host of its choice (a rebound DNS name shows there), can't hide its Origin, and
doesn't know the token, which every request that changes something has to carry.
"""

import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pspf.admin.http_error import HttpError

MAX_BODY_BYTES: Final = 64 << 10
MAX_TARGET_BYTES: Final = 4 << 10
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
        " connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True, slots=True)
class HostRule:
    """By which names a request may call this host: those of the loopback, and `names`.

    Where the admin is exposed any address is one, too: health checks and scrapers go by it, and the
    DNS name of an attacker's page is not trusted.
    """

    is_exposed: bool
    names: frozenset[str]

    def allows(self, host: str) -> bool:
        """Whether the value of a Host header names this host."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower()
        return name in _LOOPBACK_NAMES or name in self.names or (self.is_exposed and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_token(headers: Headers, token: str) -> None:
    """Raise Trouble 401 unless a request carries the token."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise HttpError(401, "this needs the token: Authorization: Bearer TOKEN")


class Guard:
    """Refuses what comes from elsewhere or is too large, and says to browsers what a page of ours may do."""

    def __init__(self, app: ASGIApp, rule: HostRule) -> None:
        self._app = app
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_SAFE)
            await send(message)

        try:
            self._check(scope)
        except HttpError as trouble:
            await refuse(trouble)(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._rule.allows(hosts[0]):
            raise HttpError(400, "this host goes by another name; add it with PSPF_ADMIN_HOSTS")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
            raise HttpError(403, "requests from other sites' pages are refused")
        # An image's or a script's request has no Origin; a link to a page of ours asks for a document.
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_link:
            raise HttpError(403, "requests from other sites' pages are refused")
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_BYTES:
            raise HttpError(414, f"the address is longer than {MAX_TARGET_BYTES:,} bytes")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            raise HttpError(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")


def refuse(trouble: HttpError) -> JSONResponse:
    """Return the answer to a request that is refused."""
    headers = {"Connection": "close"} if trouble.status in (400, 413, 414) else {}
    if trouble.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": trouble.text}, trouble.status, headers)


async def read_body(scope_receive: Receive) -> bytes:
    """Return a request's body.

    Raises:
        Trouble: 413: it is too large, also where its length was not said before.
    """
    body = bytearray()
    while True:
        message: dict[str, Any] = dict(await scope_receive())
        if message["type"] != "http.request":
            raise HttpError(400, "the request broke off")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise HttpError(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
        if not message.get("more_body", False):
            return bytes(body)

"""An HTTP client that sends exactly what a test says, byte by byte where it wants to."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def as_request(
    method: str, path: str, *, host: str, token: str | None = None, body: bytes = b"", headers: Mapping[str, str]
) -> bytes:
    """Return a request as it goes over the wire; the connection is closed behind the answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def send(port: int, request: bytes) -> Answer:
    """Send a request as it is; return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return parse(await reader.read())
    finally:
        writer.close()


async def fetch(port: int, path: str, *, method: str = "GET", token: str | None = None, **fields: Any) -> Answer:
    """Ask for `path`; `fields` are the JSON object of a POST."""
    body = json.dumps(fields).encode() if fields else b""
    return await send(port, as_request(method, path, host=f"127.0.0.1:{port}", token=token, body=body, headers={}))


def parse(raw: bytes) -> Answer:
    """Return the answer that `raw` is."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Answer(int(first.split()[1]), headers, body)

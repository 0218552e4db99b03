"""Whom the admin answers, and that nobody can hold it up."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.integration.admin import SPEC, TOKEN, admin
from tests.integration.running import wait_until
from tests.support.http import as_request, fetch, send


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost", 200),
        ("LOCALHOST:9000", 200),
        ("[::1]:{port}", 200),
        ("workers.example", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example:{port}", 400),
        ("localhost@evil.example", 400),
        ("10.1.2.3", 400),
        ("", 400),
    ],
)
async def test_only_who_calls_this_host_by_its_name_is_answered(host: str, status: int) -> None:
    async with admin() as it:
        request = as_request("GET", "/health", host=host.format(port=it.port), headers={})
        assert (await send(it.port, request)).status == status


async def test_a_request_without_a_host_or_with_two_is_refused() -> None:
    async with admin() as it:
        for head in (b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"):
            assert (await send(it.port, head)).status == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_another_site_s_page_gets_nothing_even_with_the_token(origin: str, method: str) -> None:
    async with admin() as it:
        host = f"127.0.0.1:{it.port}"
        path = "/pause" if method == "POST" else "/status"
        refused = await send(it.port, as_request(method, path, host=host, token=TOKEN, headers={"Origin": origin}))
        assert refused.status == 403


@pytest.mark.parametrize(
    ("fetch_headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
    ],
)
async def test_another_site_s_page_may_link_here_and_nothing_else(fetch_headers: dict[str, str], status: int) -> None:
    async with admin() as it:
        request = as_request("GET", "/status", host=f"127.0.0.1:{it.port}", headers=fetch_headers)
        assert (await send(it.port, request)).status == status


async def test_the_admin_s_own_page_may_do_what_the_token_allows() -> None:
    async with admin() as it:
        host = f"127.0.0.1:{it.port}"
        own = as_request("POST", "/pause", host=host, token=TOKEN, headers={"Origin": f"http://{host}"})
        answer, command = await asyncio.gather(send(it.port, own), it.answer_with(ok="it is paused"))
        assert (answer.status, answer.json, command["do"]) == (200, {"ok": "it is paused"}, "pause")


async def test_nothing_is_done_without_the_token() -> None:
    async with admin() as it:
        for path in ("/pause", "/resume", "/drain", "/dlq/replay", "/log-level"):
            for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x"):
                assert (await it.post(path, token=token)).status == 401


async def test_beyond_loopback_reading_needs_the_token() -> None:
    async with admin(replace(SPEC, is_exposed=True)) as it:
        for path in ("/status", "/topology", "/lag", "/state/total", "/dlq", "/dlq/orders/1"):
            assert (await it.get(path)).status == 401
            assert (await it.get(path, token=TOKEN)).status != 401


async def test_beyond_loopback_probes_and_scrapers_are_answered_by_address() -> None:
    async with admin(replace(SPEC, is_exposed=True)) as it:
        for path in ("/health", "/ready", "/metrics", "/"):
            for host, status in (("10.1.2.3:8001", 200), ("[fd00::1]", 200), ("evil.example", 400)):
                assert (await send(it.port, as_request("GET", path, host=host, headers={}))).status == status


async def test_there_is_nothing_but_the_endpoints() -> None:
    up = ("/../../etc/passwd", "/dashboard/../app.py", "/dashboard/%2e%2e/app.py", "/dashboard/..%2fapp.py")
    async with admin() as it:
        for path in ("/nope", "/status/", "//status", "/dashboard/", *up):
            assert (await it.get(path)).status == 404


async def test_a_method_that_an_endpoint_has_not_is_405() -> None:
    async with admin() as it:
        for answer, allowed in ((await it.get("/pause"), {"POST"}), (await it.post("/status"), {"GET", "HEAD"})):
            assert (answer.status, set(answer.headers["allow"].split(", "))) == (405, allowed)


async def test_a_head_is_answered_as_a_get_without_its_body() -> None:
    async with admin() as it:
        for path in ("/", "/health", "/metrics", "/status", "/docs", "/openapi.json"):
            answer = await fetch(it.port, path, method="HEAD")
            assert (answer.status, answer.body, int(answer.headers["content-length"]) > 0) == (200, b"", True)


async def test_what_is_too_large_is_refused() -> None:
    async with admin() as it:
        host = f"127.0.0.1:{it.port}"
        large = as_request("POST", "/pause", host=host, token=TOKEN, body=b"x" * 70_000, headers={})
        assert (await send(it.port, large)).status == 413
        announced = as_request("POST", "/pause", host=host, headers={}).replace(b": 0", b": 999999999")
        assert (await send(it.port, announced)).status == 413
        chunked = as_request("GET", "/pause", host=host, token=TOKEN, headers={"Transfer-Encoding": "chunked"})
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        assert (await send(it.port, chunked.replace(b"GET", b"POST") + 5 * chunk + b"0\r\n\r\n")).status == 413
        assert (await it.get("/" + "a" * 5_000)).status == 414
        assert (await it.get("/lag?group=" + "a" * 5_000)).status == 414
        assert (await it.get("/lag?group=" + "a" * 2_000)).status == 400


@pytest.mark.parametrize("token", [TOKEN, "wrong"])
@pytest.mark.parametrize("path", ["/pause", "/nowhere", "/status"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_that_is_no_http_is_refused_in_silence(
    token: str, path: str, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with admin() as it:
        head = as_request("POST", path, host="localhost", token=token, headers={"Transfer-Encoding": "chunked"})
        head = head.replace(b"Content-Length: 0\r\n", b"").replace(b"Connection: close\r\n", b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(head)
        before = b""
        if not at_once and (token, path) != (TOKEN, "/pause"):  # that one waits for its body
            before = await reader.readuntil(b"}")
        writer.write(b"no chunk\r\n")
        answer = before + await reader.read()
        assert answer.count(b"HTTP/1.1 4") == 1
        assert (await it.get("/health")).status == 200
        writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_answers_tell_browsers_to_trust_nothing_else() -> None:
    async with admin() as it:
        headers = (await it.get("/")).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


async def test_silent_clients_make_room_for_one_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.admin.server._ASK_S", 600)  # only their number counts
    async with admin(most=20) as it:
        silent = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(100)]
        for _, writer in silent[::3]:
            writer.write(b"GET /health HT")
        assert (await it.get("/health")).status == 200
        oldest = silent[:80]
        ended = await asyncio.gather(*(asyncio.wait_for(reader.read(), 20) for reader, _ in oldest))
        assert set(ended) == {b""}
        for _, writer in silent:
            writer.close()


async def test_a_client_that_takes_for_ever_to_ask_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.admin.server._ASK_S", 0.3)
    async with admin() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        reading = asyncio.create_task(reader.read())

        async def drip() -> bool:
            if not reading.done():
                writer.write(b"G")
            return reading.done()

        await wait_until(drip, within_ms=20_000)
        with suppress(ConnectionResetError):  # what was sent and not read any more
            assert await reading == b""
        writer.close()


async def test_a_client_that_never_sends_its_body_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.admin.server._ANSWER_S", 0.3)
    async with admin() as it:
        head = as_request("POST", "/pause", host="localhost", token=TOKEN, headers={}).replace(b": 0", b": 9")
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(head)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_a_keep_alive_connection_is_answered_more_than_once() -> None:
    async with admin() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        for _ in range(3):
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b'"}')
        writer.close()


async def test_the_metrics_listener_has_nothing_else() -> None:
    async with admin(only_metrics=True) as it:
        assert (await fetch(it.port, "/metrics")).status == 200
        assert (await fetch(it.port, "/status")).status == 404
        assert (await it.post("/pause")).status == 404

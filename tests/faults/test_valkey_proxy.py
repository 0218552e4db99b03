"""The proxy itself: what it is told to lose is lost there, and nothing else."""

import threading
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.proxy import Loss, Proxy, named
from tests.support.servers import hall


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = hall("valkey").server
    server.call("FLUSHALL")
    with Proxy(server.port, keeps=True) as opened:
        yield opened


@pytest.fixture
def client(proxy: Proxy) -> Iterator["redis.Redis"]:
    with redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0), socket_timeout=1) as opened:
        yield opened


@pytest.fixture
def patient(proxy: Proxy) -> Iterator["redis.Redis"]:
    with redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0), socket_timeout=60) as opened:
        yield opened


def read() -> object:
    """Return what the server holds, past the proxy."""
    return hall("valkey").server.call("GET", "k")


def test_it_passes_on_what_it_is_not_told_to_lose(proxy: Proxy, patient: "redis.Redis") -> None:
    with patient.pipeline(transaction=False) as pipeline:
        for n in range(5_000):
            pipeline.rpush("l", b"x\r\n%d" % n)
        assert pipeline.execute() == list(range(1, 5_001))
    assert patient.lrange("l", 0, -1) == [b"x\r\n%d" % n for n in range(5_000)]
    assert proxy.commands["RPUSH"] == 5_000
    assert [b"LRANGE", b"l", b"0", b"-1"] in proxy.seen


def test_small_pieces_change_nothing(proxy: Proxy, patient: "redis.Redis") -> None:
    proxy.piece_bytes = 3
    patient.set("k", b"y" * 2_000)
    assert patient.get("k") == b"y" * 2_000


def test_a_lost_request_was_not_done(proxy: Proxy, client: "redis.Redis") -> None:
    fault = proxy.lose(named("set"), Loss.REQUEST, nth=2)
    client.set("k", "1")
    with pytest.raises(redis.ConnectionError):
        client.set("k", "2")
    fault.wait()
    assert read() == b"1"
    client.set("k", "3")
    assert read() == b"3"


@pytest.mark.parametrize(("loss", "error"), [(Loss.REPLY, redis.ConnectionError), (Loss.ANSWER, redis.TimeoutError)])
def test_a_command_whose_reply_is_lost_was_done(
    proxy: Proxy, client: "redis.Redis", loss: Loss, error: type[Exception]
) -> None:
    fault = proxy.lose(named("set"), loss, times=2)
    for value in ("1", "2"):
        with pytest.raises(error):
            client.set("k", value)
    fault.wait()
    assert read() == b"2"
    client.set("k", "3")


def test_a_held_command_comes_when_it_is_released_and_its_sender_is_gone(proxy: Proxy, client: "redis.Redis") -> None:
    fault = proxy.lose(named("set"), Loss.HOLD)
    with pytest.raises(redis.TimeoutError):
        client.set("k", "late")
    assert read() is None
    proxy.release(fault)
    deadline = threading.Event()
    while read() is None:
        assert not deadline.wait(0.01)
    assert read() == b"late"


def test_nothing_passes_a_black_hole_until_it_is_gone(proxy: Proxy, client: "redis.Redis") -> None:
    client.ping()
    proxy.darken()
    with pytest.raises(redis.TimeoutError):
        client.set("k", "1")
    assert read() is None
    proxy.lighten()
    client.set("k", "2")
    assert read() in (b"1", b"2"), "what was under way arrives as well"


def test_connections_are_reset_and_refused(proxy: Proxy, client: "redis.Redis") -> None:
    client.ping()
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    proxy.accept()
    assert client.ping()
    before = proxy.connects
    proxy.cut()
    assert client.ping(), "the client saw that its connection was dead, and made a new one"
    assert proxy.connects == before + 1

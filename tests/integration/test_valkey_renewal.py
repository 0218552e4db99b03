"""The thread that renews a session's leases: it goes on whatever it meets, and is never missed unsaid."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pspf import faults
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.membership import Session
from pspf.connectors.valkey.broker import ValkeyBroker
from pspf.connectors.valkey.consume.liveness import Member
from pspf.errors import BackendUnavailable
from tests.support.brokers import KINDS, Kind
from tests.support.threads import no_threads
from tests.support.waiting import wait_until
from tests.support.workers import TOPIC, new, own, take

SERVERS = [kind for kind in KINDS if kind.name in ("valkey", "redis")]
QUICK = Limits(lease_ms=2_000, renew_ms=50)

pytestmark = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """Leave no fault armed."""
    yield
    faults.arm(None)


async def until_renewed(session: Session, after_ms: int) -> None:
    """Return when leases were renewed later than `after_ms`."""
    member = session._member  # type: ignore[attr-defined]  # when it was is nobody's business but a test's

    async def is_renewed() -> bool:
        return member.renewed_ms is not None and member.renewed_ms > after_ms

    await wait_until(is_renewed)


class Ending(Member):
    """A session that, once, meets what ends a thread without a word."""

    tries = 0

    @property
    def seats(self) -> Sequence[Any]:
        self.tries += 1
        if self.tries == 1:
            raise SystemExit
        return super().seats


async def test_an_error_that_is_none_of_the_server_s_ends_no_renewal(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with kind.make(tmp_path, QUICK, None) as broker:
        await broker.append(TOPIC, [new("1", "k")])
        member = await own(broker)
        await until_renewed(member.session, 0)
        faults.arm("renew:1:raise")

        async def is_told() -> bool:
            return "leases can't be renewed" in caplog.text

        await wait_until(is_told)
        await until_renewed(member.session, time.monotonic_ns() // 1_000_000)
        assert len(await take(member.consumer)) == 1
        await member.session.close()


async def test_what_ends_other_threads_without_a_word_ends_no_renewal(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kind.make(tmp_path, QUICK, None) as broker:
        assert isinstance(broker, ValkeyBroker)
        await broker.append(TOPIC, [new("1", "k")])
        member = await own(broker)
        await until_renewed(member.session, 0)
        ending = Ending(broker._core, "another")
        broker._renewal.add(ending)

        async def has_met_it() -> bool:
            return ending.tries > 0

        await wait_until(has_met_it)
        await until_renewed(member.session, time.monotonic_ns() // 1_000_000)
        assert "the thread that renews leases failed" in caplog.text
        await member.session.close()


async def test_no_session_is_open_without_a_thread_for_it_and_the_next_try_has_one(kind: Kind, tmp_path: Path) -> None:
    async with kind.make(tmp_path, QUICK, None) as broker:
        await broker.append(TOPIC, [new("1", "k")])
        with no_threads(), pytest.raises(BackendUnavailable, match="can't start new thread"):
            await broker.open_session()
        member = await own(broker)
        await until_renewed(member.session, 0)
        await member.session.close()

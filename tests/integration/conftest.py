"""The backends that streams run on here."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.settings import settings
from tests.integration.running import GROUP, TOPIC
from tests.support.brokers import KINDS, Kind


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of broker under test."""
    chosen = request.param
    assert isinstance(chosen, Kind)
    return chosen


@pytest_asyncio.fixture
async def backend(kind: Kind, tmp_path: Path) -> AsyncIterator[StreamingBackend]:
    """A backend of an empty broker; every Stream of a test may share it."""
    made = StreamingBackend(kind.make(tmp_path, Limits(synchronous="NORMAL"), None), TOPIC, GROUP)
    yield made
    await made.close()


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, object], None]]:
    """Set a setting by its variable's name, for this test."""

    def put(name: str, value: object) -> None:
        monkeypatch.setenv(name, str(value))
        settings.reload()

    yield put
    monkeypatch.undo()
    settings.reload()

"""Where the runs' brokers are."""

from pathlib import Path

import pytest

from tests.faults.runs import RUNS, FilePlace, Place, ServerPlace
from tests.support.servers import hall

KINDS = ("sqlite", "valkey", "redis") if RUNS > 2 else ("sqlite", "valkey")
"""Redis takes part in the long runs only: it differs from Valkey in little, and conformance runs on both."""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty broker file, or an empty database of a server."""
    if request.param == "sqlite":
        return FilePlace(tmp_path)
    shared = hall(request.param)
    return ServerPlace(shared.server, database=shared.database_of(tmp_path))

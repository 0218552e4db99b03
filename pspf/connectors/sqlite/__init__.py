"""The embedded broker."""

from pathlib import Path

from pspf.connectors.contract.backend import StreamingBackend
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.broker import SQLiteBroker

__all__ = ["SQLiteBackend", "SQLiteBroker"]


class SQLiteBackend(StreamingBackend):
    """One topic and one group in a broker file; opens nothing until it is used."""

    def __init__(
        self, path: str | Path, *, stream_key: str = "events", group_name: str = "default", limits: Limits | None = None
    ) -> None:
        super().__init__(SQLiteBroker(Path(path), limits), stream_key, group_name)

"""The context of the endpoints: the worker's last snapshot, the broker, and the files of the dashboard."""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from pspf.admin.broker import BrokerDesk
from pspf.admin.link import WorkerLink
from pspf.observability.snapshots import AdminSpec

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A file of the dashboard."""

    content: bytes
    content_type: str


def read_pages() -> dict[str, Page]:
    """Return the dashboard's files by name; nothing else of the disk can be asked for later."""
    pages = {}
    for file in importlib.resources.files("pspf.admin").joinpath("dashboard").iterdir():
        content_type = _TYPES.get(PurePath(file.name).suffix)
        if content_type is not None and file.is_file():
            pages[file.name] = Page(file.read_bytes(), content_type)
    return pages


@dataclass(frozen=True, slots=True)
class AdminContext:
    """All that endpoints use."""

    link: WorkerLink
    broker: BrokerDesk
    pages: Mapping[str, Page] = field(default_factory=read_pages)

    @property
    def spec(self) -> AdminSpec:
        """Who the worker is."""
        return self.link.spec

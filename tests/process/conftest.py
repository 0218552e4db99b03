"""A folder with an app for each test."""

from pathlib import Path

import pytest

from tests.process.commands import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)

"""Which app a command means."""

from pathlib import Path

import pytest

from pspf.cli.exit_codes import UsageError
from pspf.cli.services.project import find_app
from pspf.errors import ConfigurationError


def test_the_app_on_the_command_line_comes_first(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pspf]\napp = "a:b"\n')
    assert find_app("c:d", folder=tmp_path) == ("c:d", tmp_path.resolve())


def test_the_nearest_pyproject_names_the_app_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pspf]\napp = "a:b"\n')
    inner = tmp_path / "x" / "y"
    inner.mkdir(parents=True)
    assert find_app(None, folder=inner) == ("a:b", tmp_path.resolve())


def test_without_an_app_there_is_advice(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(UsageError, match=r"\[tool\.pspf\]"):
        find_app(None, folder=tmp_path)


@pytest.mark.parametrize("text", ["[tool.pspf", "[tool.pspf]\napp = 3\n"])
def test_a_pyproject_that_can_not_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError):
        find_app(None, folder=tmp_path)

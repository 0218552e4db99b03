"""`pspf init` and `pspf dev`: from nothing to an app that runs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.process.commands import ROOT, Folder, wait_until

NAMES = {
    *("app.py", "test_app.py", "pyproject.toml", "README.md", "Dockerfile", "compose.yaml"),
    *(".dockerignore", ".gitignore"),
}


@pytest.fixture
def project(folder: Folder) -> Path:
    """A project that was made in a folder of its own."""
    result = folder.ok("init", "Shop 1", "--from", "git+https://example.org/pspf.git")
    assert {Path(line).name for line in result.out.splitlines()} == NAMES
    return folder.path / "Shop 1"


def text_of(project: Path) -> str:
    return "\n".join((project / name).read_text() for name in NAMES)


def test_its_own_tests_pass(project: Path, folder: Folder) -> None:
    # The project's settings alone count; a warning would be a failure there, too.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error"],
        cwd=project,
        env=folder.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_it_says_where_pspf_comes_from_and_never_the_bare_name(project: Path) -> None:
    described = tomllib.loads((project / "pyproject.toml").read_text())
    assert described["project"]["name"] == "shop-1"
    assert described["project"]["dependencies"] == ["pspf @ git+https://example.org/pspf.git"]
    assert "pip install pspf" not in text_of(project)


def test_its_compose_file_has_a_server_that_keeps_its_data_and_a_worker(project: Path) -> None:
    services = yaml.safe_load((project / "compose.yaml").read_text())["services"]
    assert "noeviction" in services["valkey"]["command"]
    assert "--appendonly" in services["valkey"]["command"]
    assert services["worker"]["environment"] == {"PSPF_BACKEND": "valkey://valkey:6379/0"}
    assert services["worker"]["healthcheck"]["test"] == ["CMD", "pspf", "health", "ready"]


def test_nothing_is_overwritten(folder: Folder) -> None:
    before = (folder.path / "app.py").read_text()
    refused = folder.look("init", "--from", "git+https://example.org/pspf.git")
    assert refused.code == 7
    assert "app.py, pyproject.toml" in refused.err
    assert (folder.path / "app.py").read_text() == before
    assert not (folder.path / "Dockerfile").exists()


def test_a_source_that_is_none_is_refused(folder: Folder) -> None:
    assert folder.look("init", "new", "--from", "nowhere").code == 2
    assert folder.look("init", "new", "--from", 'git+https://x/"y').code == 2
    assert not (folder.path / "new").exists()


def test_a_folder_or_a_wheel_may_be_the_source(folder: Folder) -> None:
    assert folder.ok("init", "new", "--from", str(ROOT)).err.startswith(f"it installs pspf @ {ROOT.as_uri()}\n")


def test_dev_runs_a_project_on_the_embedded_broker_whatever_server_is_set(project: Path, folder: Folder) -> None:
    folder.path = project
    folder.environment["PSPF_BACKEND"] = "valkey://127.0.0.1:1/0"
    with folder.worker("--admin", "off", command="dev") as worker:
        worker.wait_for("dev uses the embedded broker")
        folder.ok("emit", "orders", '{"order_id": 7, "amount": 120.5}', "-k", "ada", "--backend", "sqlite://")
        wait_until(lambda: "ada" in folder.look("tail", "vips", "--backend", "sqlite://").out)
        (project / "app.py").write_text((project / "app.py").read_text().replace("<= 100 <", "<= 1000 <"))
        worker.wait_for("the new code is loaded")
        worker.process.terminate()
        assert worker.end() == 0
    assert (project / ".pspf" / "broker.db").exists()

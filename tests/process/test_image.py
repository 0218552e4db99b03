"""The image without an engine: what the Dockerfile installs and runs, as process 1, as nobody special.

The commands are read from the Dockerfile. Its wheel is built from what it copies and installed into an environment
of its own; the packages that PSPF depends on are the tests' own. The process is 1 of a PID namespace, with the
Dockerfile's user and no capability.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.process.commands import ROOT, Running, state_of, wait_until
from tests.support.dockerfile import Stage, read_stages

STAGES: Final = read_stages(ROOT / "Dockerfile")
BUILD: Final[Stage] = STAGES[0]
FINAL: Final[Stage] = STAGES[-1]
USER: Final = FINAL.last("USER")
CONTAINER: Final = (
    "unshare",
    "--user",
    f"--map-user={USER}",
    f"--map-group={USER}",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
APP: Final = """
import os, subprocess, time
from pathlib import Path
import pspf
from pspf import BaseEvent, Stream

stream = Stream(topic="orders", group="billing")


@stream.subscribe("orders")
async def handle(order: BaseEvent):
    status = Path("/proc/1/status").read_text().split()
    print("user", os.getuid(), "capabilities", status[status.index("CapEff:") + 1], "from", pspf.__file__)
    # The shell ends at once; what it started is nobody's, and ends later.
    subprocess.run(["sh", "-c", "sleep 0.2 & :"], check=True)
    print("orphan left")
"""


def can_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Image:
    """What was installed: the wheel, and the folder that stands for /opt/pspf."""

    context: Path
    wheel: Path
    prefix: Path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    context, prefix = folder / "src", folder / "pspf"
    context.mkdir()
    for source in BUILD.copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, context)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build: list[str | Path] = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, context]
    subprocess.run([*pip, *build], check=True, timeout=300)
    (wheel,) = folder.glob("pspf-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True, timeout=300)
    install: list[str | Path] = ["--python", prefix / "bin" / "python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True, timeout=300)
    (packages,) = prefix.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Image(context, wheel, prefix)


class Container:
    """A folder that stands for /app, and what runs in it."""

    def __init__(self, folder: Path, image: Image) -> None:
        self.folder = folder
        (folder / "app.py").write_text(APP)
        (folder / "pyproject.toml").write_text('[tool.pspf]\napp = "app:stream"\n')
        (folder / ".pspf").mkdir()
        self._environment = {
            "PATH": f"{image.prefix / 'bin'}:/usr/bin:/bin",
            "PYTHONUNBUFFERED": "1",
            "PSPF_ADMIN": "off",
            "LANG": "C.UTF-8",
        }

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the image to its end, on its own."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def run_inside(self, first: int, command: list[str]) -> int:
        """Run a command where process 1 is `first`, as an engine does; return its exit code."""
        enter = ("nsenter", f"--target={first}", "--user", "--pid", "--mount", "--preserve-credentials")
        return self.run(*enter, f"--wd={self.folder}", *command).returncode

    @contextlib.contextmanager
    def start(self) -> Iterator[Running]:
        """Start the Dockerfile's ENTRYPOINT with its CMD as process 1."""
        log = self.folder / "container.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*CONTAINER, *FINAL.command("ENTRYPOINT"), *FINAL.command("CMD")],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Running(process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def container(tmp_path: Path, image: Image) -> Container:
    if not can_unshare():
        reason = "needs a user and a PID namespace of its own: unshare and nsenter, and a kernel that permits it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Container(tmp_path, image)


def zombies_of(pid: int) -> list[str]:
    """Return the children of a process that have ended and were not collected."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if state_of(int(child)) == "Z"]


def test_the_entry_point_is_a_good_process_1_as_a_user_without_rights(container: Container, image: Image) -> None:
    health = FINAL.command("HEALTHCHECK")
    assert container.run("pspf", "emit", "orders", '{"n": 1}').returncode == 0
    assert container.run(*health).returncode == 10
    with container.start() as running:
        running.wait_for("orphan left")
        (first,) = running.family()
        wait_until(lambda: container.run_inside(first, health) == 0, within_s=60)
        wait_until(lambda: zombies_of(first) == [])
        os.kill(first, signal.SIGTERM)
        assert running.end(within_s=60) == 0
        said = running.log.read_text()
    assert f"user {USER} capabilities {'0' * 16} from {image.prefix}" in said
    assert "handled 1, failed 0, dead 0, lag 0" in said
    assert container.run(*health).returncode == 10


def test_the_wheel_holds_all_that_the_package_does(image: Image) -> None:
    package = image.context / "pspf"
    files = {str(path.relative_to(image.context)) for path in package.rglob("*") if path.is_file()}
    assert files <= set(zipfile.ZipFile(image.wheel).namelist())


def test_the_image_copies_only_what_its_context_holds() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored
    assert {f"!{source}" for source in BUILD.copied()} <= set(ignored)


def test_what_runs_is_written_for_no_shell_and_not_for_root() -> None:
    assert FINAL.command("ENTRYPOINT") == ["pspf"]
    assert FINAL.command("CMD") == ["worker"]
    assert int(USER) > 0
    assert FINAL.last("STOPSIGNAL") == "SIGTERM"

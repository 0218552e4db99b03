"""Files of a new project, made of the templates in `project_files/`."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from pspf.cli.exit_codes import UsageError
from pspf.errors import Refused

_FILES: Final = (
    "app.py",
    "test_app.py",
    "pyproject.toml",
    "README.md",
    "Dockerfile",
    "compose.yaml",
    ".dockerignore",
    ".gitignore",
)


def make_project(folder: Path, needed: str) -> Sequence[str]:
    """Write the project's files into `folder` and return their names; `needed` is its requirement on PSPF.

    Raises:
        Refused: One of them is there already; nothing was written.
    """
    there = sorted(name for name in _FILES if (folder / name).exists())
    if there:
        raise Refused(
            f"{folder} has {', '.join(there)} already; nothing was written\n  name another folder: pspf init DIR"
        )
    values = {"name": _name_of(folder), "requirement": needed}
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (folder / name).write_text(_render(name, values), encoding="utf-8")
    return _FILES


def requirement(source: str | None) -> str:
    """Return how a project requires PSPF: from `source`, else from where this installation came (PEP 610).

    Raises:
        UsageError: No source is given, and the installation does not know its own.
    """
    source = source.strip() if source else _own_source()
    if not source:
        raise UsageError(
            "where does the project get PSPF from? This installation does not know its own source.\n"
            "  name it: pspf init DIR --from git+URL"
        )
    if re.match(r"pspf\s*@", source):
        return source
    if "://" not in source:
        if not Path(source).exists():
            raise UsageError(f"--from {source}: neither a URL (git+https://...) nor a folder or wheel that is there")
        source = Path(source).resolve().as_uri()
    if re.search(r'["\\\s]', source):
        raise UsageError(f"--from {source!r}: a URL has no quotes, blanks or backslashes")
    return f"pspf @ {source}"


def _own_source() -> str | None:
    """Return the URL that pip, or who else installed PSPF, has noted; None where there is none."""
    try:
        noted = json.loads(metadata.distribution("pspf").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    url: str | None = noted.get("url")
    if url is None or (vcs := noted.get("vcs_info")) is None:
        return url
    return f"{vcs['vcs']}+{url}@{vcs['commit_id']}"


def _name_of(folder: Path) -> str:
    """Return a name for the project that packaging takes, after its folder."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "app"
    return f"{name}-app" if name == "pspf" else name


def _render(name: str, values: Mapping[str, str]) -> str:
    # .txt keeps tools from taking them for parts of PSPF, and a leading dot from hiding them.
    template = files("pspf.cli").joinpath("project_files", f"{name.lstrip('.')}.txt").read_text(encoding="utf-8")
    return Template(template).substitute(values)

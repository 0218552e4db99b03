"""`pspf init`: creates a project."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.console import say, write

app = typer.Typer()


@command(app, "pspf init shop", "pspf init . --from git+URL", has_backend=False, has_json=False)
def init(
    call: Invocation,
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="Where to; made if missing.", show_default=False)
    ] = ".",
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Where the project's PSPF comes from: git+URL, a wheel or a folder; default: where this one does.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a project: an app, its tests, pyproject.toml, Dockerfile and compose.yaml. Overwrites nothing."""
    from pathlib import Path

    from pspf.cli.services.scaffold import make_project, requirement

    target = Path(folder)
    needed = requirement(source)
    for name in make_project(target, needed):
        write(str(target / name))
    say(f"it installs {needed}")
    if "file:" in needed:
        say("  that is a place on this machine; others need a git URL there: pyproject.toml, or --from git+URL")
    steps = ["python -m venv .venv && . .venv/bin/activate", "pip install -e '.[test]' && pytest", "pspf dev"]
    if target.resolve() != Path.cwd():
        steps.insert(0, f"cd {folder}")
    say("next:")
    for step in steps:
        say(f"  {step}")

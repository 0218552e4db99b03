"""Options that several commands have, as annotated types."""

from typing import Annotated, Final

import typer


class _Verbosity:
    """Whether `-v` was given: known to `main` also when the command itself failed."""

    on = False


verbosity: Final = _Verbosity()


def _remember(value: bool) -> bool:
    verbosity.on = verbosity.on or value
    return value


Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        # Not envvar=: the settings read PSPF_BACKEND, and a backend in the app's code comes before them but after this.
        help="The broker, such as sqlite:///path.db; default: PSPF_BACKEND, else .pspf/broker.db of the project.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.", show_envvar=False)]
AsJsonLines = Annotated[bool, typer.Option("--jsonl", help="Print one JSON object a line.")]
Execute = Annotated[
    bool, typer.Option("--execute", help="Do it; without it only the plan is shown.", show_envvar=False)
]
Force = Annotated[bool, typer.Option("--force", help="Also while it is in use.", show_envvar=False)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show tracebacks.", callback=_remember, show_envvar=False)
]
App = Annotated[
    str | None,
    typer.Argument(
        metavar="MODULE:OBJECT",
        help="The Stream to load; default: [tool.pspf] app in pyproject.toml.",
        show_default=False,
    ),
]

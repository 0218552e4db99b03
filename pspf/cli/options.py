"""What all commands share: their options, and help pages that end with examples to paste."""

from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup


class _Verbosity:
    """Whether `-v` was given: known to `main` also when the command itself failed."""

    on = False


verbosity: Final = _Verbosity()


def _remember(value: bool) -> bool:
    verbosity.on = verbosity.on or value
    return value


def examples(*lines: str) -> str:
    """Return the last part of a help page."""
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines)


def _write_epilog(epilog: str | None, formatter: Any) -> None:
    """Write examples as they are; the default would wrap them into one paragraph."""
    if epilog:
        formatter.write_paragraph()
        for line in epilog.splitlines():
            formatter.write(f"{line}\n")


class CliCommand(TyperCommand):
    """A command whose help page keeps the lines of its examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_epilog(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands whose help page keeps the lines of its examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_epilog(self.epilog, formatter)


def make_app(summary: str, *example_lines: str, name: str | None = None) -> typer.Typer:
    """Return a typer app as all of ours are: plain help (rich costs 0.1 s), a PSPF_... variable for each flag."""
    is_root = name is not None
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
    return typer.Typer(
        name=name,
        cls=Group,
        help=summary,
        epilog=examples(*example_lines),
        no_args_is_help=True,
        add_completion=is_root,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        # Below the root the prefix grows by itself: PSPF_GROUPS_INSPECT_LAG_OVER.
        context_settings={**settings, "auto_envvar_prefix": "PSPF"} if is_root else settings,
    )


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

"""Decorator of commands: supplies their common options, runs those that are coroutines, and ends with their exit code.

    @command(app, "pspf topics list", "pspf topics list --json", name="list")
    async def list_topics(call: Invocation, topic: Topic = None) -> None:
        '''List all topics with their size.'''
        async with call.open_broker() as broker:
            ...

The docstring is the help page, followed by the examples. A parameter that is a dataclass stands for its fields, each
of which is an option.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from pspf.cli.options import AsJson, Backend, Verbose

if TYPE_CHECKING:
    from pspf.connectors.contract.broker import Broker

Code: TypeAlias = int | None
Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, Code] | Code])


@dataclass(frozen=True, slots=True)
class Invocation:
    """Common options of one run of a command."""

    backend: str | None = None
    as_json: bool = False

    def open_broker(self, *, makes: bool = False, names: bool = True) -> "AbstractAsyncContextManager[Broker]":
        """Open the broker of `--backend`, as `broker_session.open_broker` does."""
        from pspf.cli import broker_session

        return broker_session.open_broker(self.backend, makes=makes, names=names)


def command(
    app: typer.Typer, *lines: str, name: str | None = None, has_backend: bool = True, has_json: bool = True
) -> Callable[[Work], Work]:
    """Make a function, or a coroutine, a command of `app`; `lines` are the examples of its help page.

    It is given an `Invocation`, then its own arguments. It returns an exit code, None for 0.
    """
    common = {"backend": (Backend, None, has_backend), "as_json": (AsJson, False, has_json)}
    common["verbose"] = (Verbose, False, True)

    def decorate(work: Work) -> Work:
        own = [*inspect.signature(work).parameters.values()][1:]
        parameters = [each for parameter in own for each in _expand(parameter)]
        parameters += [_parameter(option, *rest) for option, (*rest, is_wanted) in common.items() if is_wanted]
        app.command(name, cls=CliCommand, epilog=examples(*lines))(_make_callback(work, own, parameters))
        return work

    return decorate


def _make_callback(
    work: Callable[..., Coroutine[Any, Any, Code] | Code],
    own: list[inspect.Parameter],
    parameters: list[inspect.Parameter],
) -> Callable[..., None]:
    """Return what the argument parser calls with the values of `parameters`."""

    def callback(**given: Any) -> None:
        call = Invocation(given.get("backend"), given.get("as_json", False))
        result = work(call, **{each.name: _collect(each, given) for each in own})
        code = _run(result) if isinstance(result, Coroutine) else result
        if code is not None:
            raise typer.Exit(code)

    callback.__name__ = callback.__qualname__ = work.__name__
    callback.__doc__ = work.__doc__
    callback.__annotations__ = {each.name: each.annotation for each in parameters}
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # a parser reads it
    return callback


def _run(work: Coroutine[Any, Any, Code]) -> Code:
    from pspf.cli import broker_session

    return broker_session.run(work)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _expand(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield a parameter, or those of the fields of its dataclass."""
    if dataclasses.is_dataclass(parameter.annotation):
        for field in dataclasses.fields(parameter.annotation):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            yield _parameter(field.name, field.type, default)
    else:
        yield _parameter(parameter.name, parameter.annotation, parameter.default)


def _collect(parameter: inspect.Parameter, given: dict[str, Any]) -> Any:
    """Return the value of a parameter, put together from its fields where it stands for them."""
    kind = parameter.annotation
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})
    return given[parameter.name]


def examples(*lines: str) -> str:
    """Return the last part of a help page."""
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines)


def _write_epilog(epilog: str | None, formatter: Any) -> None:
    """Write examples as they are; the default would wrap them into one paragraph."""
    if epilog:
        formatter.write_paragraph()
        for line in epilog.splitlines():
            formatter.write(f"{line}\n")


def summarize(text: str, limit: int) -> str:
    """Return the first sentence of a help page; where that is longer than `limit`, only as far as a clause ends.

    A colon or a semicolon ends the summary before a comma does. Words are cut off where there is no clause.
    """
    sentence = " ".join(text.strip().split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    if len(sentence) < limit:
        return f"{sentence}."
    for pattern, which in (("[:;] ", 0), (", ", -1)):
        ends = [match.start() for match in re.finditer(pattern, sentence[:limit])]
        if ends:
            return f"{sentence[: ends[which]]}."
    return sentence[: limit - 3].rpartition(" ")[0] + "..."


class CliCommand(TyperCommand):
    """A command whose help page keeps the lines of its examples."""

    def get_short_help_str(self, limit: int = 45) -> str:
        return summarize(self.help or "", limit)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_epilog(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands whose help page keeps the lines of its examples."""

    def get_short_help_str(self, limit: int = 45) -> str:
        return summarize(self.help or "", limit)

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

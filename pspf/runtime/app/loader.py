"""Loader of apps: `MODULE:OBJECT` to a Stream, with errors that name what the module has instead."""

import difflib
import importlib
import linecache
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType

from pspf.errors import AppNotFound
from pspf.observability.snapshots import HandlerShape
from pspf.runtime.app.plan import AppPlan, TopicGroup
from pspf.runtime.app.work import CursorName, OperatorCursors
from pspf.stream import Stream
from pspf.subscription import Subscription


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """A user's Stream and where it is."""

    target: str
    folder: Path
    stream: Stream

    def make_plan(self) -> AppPlan:
        """Return which topic groups there are to run, in the order of their handlers."""
        subscriptions = self.stream.subscriptions
        makes = tuple(map(str, self.stream.topics_to_make()))
        return AppPlan(self.target, str(self.folder), _topic_groups(subscriptions), _operators(subscriptions), makes)


def load_app(target: str, folder: Path) -> LoadedApp:
    """Import the module of `target` from `folder` (or anywhere on the path) and return its Stream.

    Without `:OBJECT` the module's only Stream is taken.

    Raises:
        AppNotFound: The module is missing or fails, or has no such Stream.
    """
    module_name, colon, object_name = target.partition(":")
    _check_spelling(target, module_name, colon, object_name)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = _import(module_name, folder)
    if not colon:
        object_name = _only_stream(module)
    return LoadedApp(f"{module_name}:{object_name}", folder, _find_stream(module, object_name))


def _check_spelling(target: str, module_name: str, colon: str, object_name: str) -> None:
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        raise AppNotFound(f"{target!r} is a file; name its module: {dotted}:{object_name or 'stream'}")
    parts = [*module_name.split("."), *(object_name.split(".") if colon else [])]
    if not all(part.isidentifier() for part in parts):
        raise AppNotFound(f"{target!r} is no MODULE:OBJECT; write it as app:stream or package.module:stream")


def _import(name: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise AppNotFound(_missing_module(name, error.name, folder)) from error
        raise AppNotFound(_failed_import(name, error)) from error
    except SystemExit as error:
        raise AppNotFound(f"{name} ended itself while it was imported (SystemExit: {error})") from error
    except Exception as error:
        raise AppNotFound(_failed_import(name, error)) from error


def _missing_module(name: str, missing: str, folder: Path) -> str:
    """Return the message for a module that is not there, with the names that are, beside it."""
    parent, _, last = missing.rpartition(".")
    loaded = sys.modules.get(parent) if parent else None
    if loaded is not None and not hasattr(loaded, "__path__"):
        return f"no module {name!r}: {parent} is a module, not a package\n  an object in it is named {parent}:{last}"
    places = list(loaded.__path__) if loaded is not None else [str(folder)]
    near = _near(last, (module.name for module in pkgutil.iter_modules(places)), prefix=f"{parent}." if parent else "")
    return f"no module {missing!r}{near}\n  looked in {places[0]} and on the path"


def _failed_import(name: str, error: Exception) -> str:
    """Return the message for a module that raises: the user's own line, without the import machinery."""
    lines = [f"{name} can't be imported: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]
    if isinstance(error, SyntaxError):
        lines.append(f"  {error.filename}:{error.lineno}: {(error.text or '').strip()}")
    else:
        frame = find_user_frame(traceback.extract_tb(error.__traceback__))
        if frame is not None:
            lines.append(
                f"  {frame.filename}:{frame.lineno}: {linecache.getline(frame.filename, frame.lineno or 0).strip()}"
            )
    if isinstance(error, ModuleNotFoundError):
        lines.append(f"  is {error.name} installed in {sys.prefix}?")
    lines.append("  -v shows the whole traceback")
    return "\n".join(lines)


def find_user_frame(frames: Iterable[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """Return the innermost frame in a file that is no part of Python, an installed package or PSPF."""
    ours = str(Path(__file__).parents[2])
    frames = [
        frame
        for frame in frames
        if not frame.filename.startswith(("<", ours, sys.base_prefix)) and "site-packages" not in frame.filename
    ]
    return frames[-1] if frames else None


def _streams(module: ModuleType) -> list[str]:
    """Return the names of the module's Streams, each Stream once."""
    seen: dict[int, str] = {}
    # __all__ as well: a package may import its Stream only when it is asked for.
    for name in dict.fromkeys([*vars(module), *getattr(module, "__all__", ())]):
        value = getattr(module, name, None)
        if isinstance(value, Stream):
            seen.setdefault(id(value), name)
    return list(seen.values())


def _only_stream(module: ModuleType) -> str:
    names = _streams(module)
    if len(names) == 1:
        return names[0]
    if not names:
        raise AppNotFound(
            f'no Stream in {module.__name__}; it needs one, such as: stream = Stream(topic="orders", group="app")'
        )
    raise AppNotFound(
        f"{module.__name__} has several Streams; say which: {', '.join(f'{module.__name__}:{n}' for n in names)}"
    )


def _find_stream(module: ModuleType, path: str) -> Stream:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            names = _streams(module)
            near = _near(path, names) or _near(path, vars(module))
            there = (
                f"\n  Streams there: {', '.join(names)}" if names else f"\n  there is no Stream in {module.__name__}"
            )
            raise AppNotFound(f"no Stream named {path!r} in {module.__name__}{near}{there}") from None
    if isinstance(found, Stream):
        return found
    names = _streams(module)
    hint = f"; did you mean {names[0]!r}?" if len(names) == 1 else ""
    kind = (
        "the class Stream itself, make one of it" if found is Stream else f"of type {type(found).__name__}, no Stream"
    )
    raise AppNotFound(f"{module.__name__}:{path} is {kind}{hint}")


def _near(word: str, words: Iterable[str], *, prefix: str = "") -> str:
    close = difflib.get_close_matches(word, [name for name in words if not name.startswith("__")], n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def _topic_groups(subscriptions: Sequence[Subscription]) -> tuple[TopicGroup, ...]:
    """Return the subscriptions by topic and group."""

    def place(subscription: Subscription) -> tuple[str, str]:
        return subscription.topic, subscription.group

    order = {p: number for number, p in reversed(list(enumerate(place(s) for s in subscriptions)))}
    groups = groupby(sorted(subscriptions, key=lambda s: order[place(s)]), key=place)
    return tuple(_topic_group(topic, group, list(members)) for (topic, group), members in groups)


def _topic_group(topic: str, group: str, members: Sequence[Subscription]) -> TopicGroup:
    cursors = dict.fromkeys(CursorName(each, group, s.cursor_handler) for s in members for each in s.topics)
    return TopicGroup(
        topic, group, tuple(s.name for s in members), tuple(cursors), shapes=tuple(_shape(s) for s in members)
    )


def _shape(subscription: Subscription) -> HandlerShape:
    operator, model = subscription.operator, subscription.model
    return HandlerShape(
        subscription.name,
        subscription.topic,
        subscription.group,
        subscription.ordering,
        None if model is None else getattr(model, "__name__", str(model)),
        None if operator is None else str(operator),
        None if operator is None else operator.to,
        subscription.concurrency,
        subscription.beside,
    )


def _operators(subscriptions: Sequence[Subscription]) -> tuple[OperatorCursors, ...]:
    return tuple(
        OperatorCursors(
            CursorName(each.topic, each.group, each.cursor_handler),
            None if each.operator is None else each.operator.to,
            emits_anywhere=each.operator is None,
        )
        for each in subscriptions
        if each.operator is not None or each.timers is not None
    )

"""Topics of an app under test: which ones its handlers read, and which ones anybody writes."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

from pspf.errors import ConfigurationError
from pspf.records import COMPANION_SUFFIXES, check_name, companion_source
from pspf.stream import Stream

_WAY_OUT = "StreamTester(..., any_topic=True) takes every name"


class KnownTopics:
    """The topics of an app. With `takes_all` no name is refused."""

    def __init__(self, stream: Stream, *, takes_all: bool) -> None:
        self._takes_all = takes_all
        self._read = {topic for each in stream.subscriptions for topic in each.topics}
        self._written = {
            *self._read,
            *map(str, stream.declared_topics),
            stream.default_topic,
            *(each.emits_to for each in stream.subscriptions if each.emits_to is not None),
            *(each.operator.to for each in stream.subscriptions if each.operator and each.operator.to is not None),
        }
        self._functions: list[Any] = [each.handler.function for each in stream.subscriptions]

    def check_sent(self, topic: str) -> None:
        """Raise ConfigurationError for a topic that no handler reads."""
        if self._takes_all or topic in self._read:
            return
        check_name("topic", topic)
        raise ConfigurationError(
            f"no handler of the app reads topic {str(topic)!r}{_near(topic, self._read)}\n  they read"
            f" {', '.join(sorted(self._read))}; {_WAY_OUT}"
        )

    def check_read(self, topic: str, existing: Collection[str]) -> None:
        """Raise ConfigurationError for a topic that is not there and that nobody seems to write.

        Handlers emit to names that only their run knows. One that their code mentions is taken to be written.
        """
        source = companion_source(topic) or str(topic)
        known = {*self._written, *(each for each in existing if not each.endswith(COMPANION_SUFFIXES))}
        if self._takes_all or source in known or source in set(self._mentioned()):
            return
        near = _near(source, {*known, *(each for each in self._mentioned() if each.isprintable() and " " not in each)})
        raise ConfigurationError(
            f"nobody has written topic {source!r}, and no handler mentions it{near}\n  declare one that comes from"
            f' elsewhere: stream.topic("{source}"); {_WAY_OUT}'
        )

    def _mentioned(self) -> Iterator[str]:
        """Give the texts in the code of handlers, and those that names in it stand for."""
        for function in self._functions:
            while hasattr(function, "__wrapped__"):
                function = function.__wrapped__
            if not hasattr(function, "__code__"):
                function = type(function).__call__
            if isinstance(function, FunctionType):
                yield from _texts_of(function.__code__, function.__globals__)
                yield from (each.cell_contents for each in function.__closure__ or () if _is_text(each))


def _texts_of(found: object, names: Mapping[str, Any]) -> Iterator[str]:
    """Give the texts in code, or in a constant of it."""
    if isinstance(found, str):
        yield str(found)
    elif isinstance(found, tuple | frozenset):
        for each in found:
            yield from _texts_of(each, names)
    elif isinstance(found, CodeType):
        yield from _texts_of(found.co_consts, names)
        yield from (str(names[name]) for name in found.co_names if isinstance(names.get(name), str))


def _is_text(cell: CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, str)
    except ValueError:  # it is empty
        return False


def _near(word: str, words: Collection[str]) -> str:
    close = difflib.get_close_matches(word, sorted(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

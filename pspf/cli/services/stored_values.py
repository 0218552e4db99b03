"""Stored state of handlers, found by names that people type."""

from collections.abc import AsyncIterator, Sequence

from pspf.cli.console import format_time
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StateEntry
from pspf.connectors.views import as_json_entry
from pspf.engine.open_windows import each_window, find_windows
from pspf.errors import NotFound
from pspf.records import as_text

__all__ = ["as_json_entry", "find_entries", "find_entry", "key_text", "value_text"]


async def find_entries(
    broker: Broker, *, handler: str | None, group: str | None, key: str | None, name: str | None
) -> Sequence[StateEntry]:
    """Return what `each_entry` gives."""
    return [entry async for entry in each_entry(broker, handler=handler, group=group, key=key, name=name)]


async def each_entry(
    broker: Broker, *, handler: str | None, group: str | None, key: str | None = None, name: str | None = None
) -> AsyncIterator[StateEntry]:
    """Give remembered values, then open windows; `handler` may be the last part of a name, as `total` of `app.total`.

    A window is called by its interval; its start alone names it, too.

    Raises:
        NotFound: No handler of this name remembers or has a cursor.
        UsageError: The last part fits several.
    """
    full = None if handler is None else await find_handler(broker, handler)
    raw_key = None if key is None else key.encode()
    for entry in await broker.list_state(handler=full, group=group, key=raw_key, name=name):
        yield entry
    for found in await find_windows(broker, handler=full, group=group):
        cursor = found.cursor
        assert cursor.handler is not None
        async for window in each_window(broker, found, key=key):
            called = f"{format_time(window.start_ms)}/{format_time(window.end_ms)}"
            if name in (None, called, called.partition("/")[0]):
                place = (cursor.handler, cursor.topic, cursor.group, cursor.partition)
                yield StateEntry(*place, (window.key or "").encode(), called, window.value or b"null")


async def find_entry(
    broker: Broker, *, handler: str, group: str | None, topic: str | None, key: str, name: str | None
) -> StateEntry:
    """Return the one value that fits.

    Raises:
        NotFound: It does not exist.
        UsageError: There are several.
    """
    entries = await find_entries(broker, handler=handler, group=group, key=key, name=name)
    topics = sorted({entry.topic for entry in entries})
    if topic is not None and topics and topic not in topics:
        raise NotFound(
            f"{handler} remembers nothing on topic {topic!r} for key {key!r}; it does on {', '.join(topics)}"
        )
    entries = [entry for entry in entries if topic in (None, entry.topic)]
    if not entries:
        known = {entry.name for entry in await find_entries(broker, handler=handler, group=group, key=key, name=None)}
        if name is not None and known:
            raise NotFound(
                f"{handler} remembers no {name!r} for key {key!r}{near(name, known)}; it has {', '.join(sorted(known))}"
            )
        raise NotFound(f"{handler} remembers nothing for key {key!r}; see pspf state list {handler}")
    if len(entries) > 1:
        names = sorted({entry.name for entry in entries})
        groups = sorted({entry.group for entry in entries})
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        what = f"names {shown}; add one"
        if len(groups) > 1:
            what = f"groups {', '.join(groups)}; add --group"
        elif topic is None and len(topics) > 1:
            what = f"topics {', '.join(topics)}; add --topic"
        raise UsageError(f"{handler} remembers several values for key {key!r}: {what}")
    return entries[0]


async def find_handler(broker: Broker, handler: str) -> str:
    """Return the whole name of an ordered handler. Errors as in `each_entry`."""
    cursors = {info.cursor.handler for info in await broker.list_cursors()}
    names = {name for name in cursors if name is not None}
    if handler not in names:
        names |= {entry.handler for entry in await broker.list_state()}
    if handler in names:
        return handler
    fitting = sorted(name for name in names if name.endswith(f".{handler}"))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"several handlers are called {handler!r}: {', '.join(fitting)}")
    known = f"\n  handlers with state: {', '.join(sorted(names)[:8])}" if names else ""
    raise NotFound(f"no ordered handler {handler!r} in {broker.name}{near(handler, names)}{known}")


def key_text(entry: StateEntry) -> str:
    """Return the record key for people."""
    return as_text(entry.key) or ""


def value_text(entry: StateEntry) -> str:
    """Return the value's JSON."""
    return as_text(entry.value) or ""

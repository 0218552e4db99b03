"""Dead letters for commands: selection, display, replay."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from pspf.cli.console import Cell, format_time, shorten
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.letters import replay_batch, scan_letters
from pspf.connectors.views import LetterFilter, as_json_letter, as_json_whole, names_of
from pspf.errors import NotFound, PSPFError
from pspf.records import as_text, parse_id

__all__ = [
    "LetterFilter",
    "as_json_letter",
    "as_json_whole",
    "as_page",
    "as_row",
    "by_error",
    "replay_letters",
    "select",
    "select_one",
]

_BATCH: Final = 500


async def select(broker: Broker, choice: LetterFilter, *, is_whole: bool = True) -> list[StoredDeadLetter]:
    """Return the dead letters of `choice`, oldest first; without event and traceback where not `is_whole`.

    Raises:
        NotFound: A topic or an id that was named is not there.
        ConfigurationError: An id is malformed.
    """
    for letter_id in choice.ids:
        parse_id(letter_id.rpartition("/")[2])
    letters: Sequence[StoredDeadLetter]
    if is_whole:
        letters = await broker.list_dead_letters(topic=choice.source, group=choice.group)
    else:
        found = [_without_payload(each) async for each in scan_letters(broker, choice.source)]
        found = [letter for letter in found if choice.group in (None, letter.group)]
        letters = sorted(found, key=lambda letter: letter.dead_at_ms)
    if choice.source is not None and not letters:
        names = {info.topic for info in await broker.list_topics()}
        if choice.source not in names:
            raise NotFound(f"no topic {choice.source!r} in {broker.name}{near(choice.source, names)}")
    known = {name for letter in letters for name in names_of(letter)}
    missing = [letter_id for letter_id in choice.ids if letter_id not in known]
    if missing:
        raise NotFound(
            f"no dead letter {', '.join(missing)}{f' of {choice.source}' if choice.source else ''}; see pspf dlq list"
        )
    return [letter for letter in letters if choice.fits(letter)]


def _without_payload(letter: StoredDeadLetter) -> StoredDeadLetter:
    return replace(letter, record=letter.record._replace(value=b"", raw_headers=None), traceback="")


async def select_one(broker: Broker, choice: LetterFilter) -> StoredDeadLetter:
    """Return the one dead letter of `choice`.

    Raises:
        NotFound: It does not exist.
        UsageError: There are several: topics that have one with this id, or handlers that gave the record up.
    """
    letters = await select(broker, choice)
    if len(letters) > 1:
        found = ", ".join(f"{letter.record.id} of {letter.topic} in {letter.handler}" for letter in letters)
        first = letters[0]
        raise UsageError(
            f"there are several dead letters {choice.ids[0]}: {found}\n"
            f"  name one by its own id and topic: pspf dlq inspect {first.record.id} --topic {first.topic}"
        )
    return letters[0]


async def replay_letters(
    broker: Broker, letters: Sequence[StoredDeadLetter], *, to: str | None, rate: float | None
) -> tuple[int, list[PSPFError]]:
    """Replay in order, at most `rate` a second; return how many were still there, and why the others are left."""
    size = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 10)))
    count = 0
    left: list[PSPFError] = []
    due = time.monotonic()
    for start in range(0, len(letters), size):
        batch = letters[start : start + size]
        if rate is not None:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += len(batch) / rate
        done, errors = await replay_batch(broker, batch, to)
        count += done
        left += errors
    return count, left


def by_error(letters: Sequence[StoredDeadLetter]) -> Iterator[str]:
    """Yield a line for each error type and handler, the most frequent first."""
    counts = Counter((letter.error_type, letter.topic, letter.handler) for letter in letters)
    for (error_type, topic, handler), count in counts.most_common():
        yield f"{count} x {error_type} in {handler} on {topic}"


def as_row(letter: StoredDeadLetter) -> tuple[Cell, ...]:
    """Return the cells of `dlq list`."""
    error = shorten(f"{letter.error_type}: {letter.error}", 60)
    when = format_time(letter.dead_at_ms)
    return letter.record.id, letter.topic, letter.group, letter.handler, letter.attempts, error, when


def as_page(letter: StoredDeadLetter) -> Iterator[str]:
    """Yield the lines of `dlq inspect`."""
    yield f"dead letter {letter.record.id} of {letter.topic}, record {letter.original_id}"
    yield f"group       {letter.group}"
    yield f"handler     {letter.handler}"
    yield f"attempts    {letter.attempts}"
    yield f"dead at     {format_time(letter.dead_at_ms)}"
    yield f"key         {as_text(letter.record.raw_key) or '-'}"
    yield f"error       {letter.error_type}: {letter.error}"
    yield f"payload     {as_text(letter.record.value)}"
    yield from letter.traceback.splitlines()
    yield f"to try again: pspf dlq replay {letter.topic} --id {letter.record.id}"

"""Dead letters for the admin: read page by page, with no more of each than the list shows.

A dead letter holds its event and a traceback, up to a megabyte and more, and there may be any number of them:
no request makes the admin hold them all at once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.letters import decode_letter, scan_letters
from pspf.connectors.views import LetterFilter, as_json_letter
from pspf.errors import NotFound
from pspf.records import DEAD_LETTER_SUFFIX, parse_id

MAX_LISTED: Final = 10_000
_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Digest:
    """The dead letters of a choice: how many, how many of each (error, handler, topic), the newest first."""

    total: int
    counts: Counter[tuple[str, str, str]]
    newest: Sequence[dict[str, Any]]


async def read_digest(broker: Broker, choice: LetterFilter) -> Digest:
    """Return the digest of a choice, with `MAX_LISTED` letters at most. NotFound: there is no such topic."""
    counts: Counter[tuple[str, str, str]] = Counter()
    newest: list[dict[str, Any]] = []
    if choice.source is not None:
        topics = {info.topic for info in await broker.list_topics()}
        if not topics & {choice.source, choice.source + DEAD_LETTER_SUFFIX}:
            raise NotFound(f"no topic {choice.source!r} in {broker.name}")
    async for letter in scan_letters(broker, choice.source, page=_PAGE):
        if choice.group not in (None, letter.group) or not choice.fits(letter):
            continue
        counts[letter.error_type, letter.handler, letter.topic] += 1
        newest.append(as_json_letter(letter))
        if len(newest) >= 2 * MAX_LISTED:
            _keep_newest(newest)
    _keep_newest(newest)
    return Digest(counts.total(), counts, newest[::-1])


def _keep_newest(letters: list[dict[str, Any]]) -> None:
    letters.sort(key=lambda letter: letter["dead_at_ms"])
    del letters[:-MAX_LISTED]


async def read_letter(broker: Broker, topic: str, letter_id: str) -> StoredDeadLetter:
    """Return one dead letter by the id that it has among those of a source topic. NotFound: it is not there."""
    partition, offset = parse_id(letter_id)
    companion = topic.removesuffix(DEAD_LETTER_SUFFIX) + DEAD_LETTER_SUFFIX
    records = await broker.read(companion, partition, offset=offset, max_records=1)
    letter = decode_letter(records[0]) if records and records[0].offset == offset else None
    if letter is None:
        raise NotFound(f"no dead letter {letter_id} of {topic}")
    return letter

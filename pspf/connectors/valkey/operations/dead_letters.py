"""Dead letters on a server: replayed or purged."""

from collections.abc import Sequence
from typing import Final

from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.letters import as_new, check_replay, decode_letter
from pspf.connectors.valkey.connection.scripts import Argument, load_script
from pspf.connectors.valkey.consume.replayed import pack_replayed
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.log.fields import format_entry_id, pack_records, pack_retry
from pspf.connectors.valkey.log.log import read_range
from pspf.connectors.valkey.operations.inspect import leave_out
from pspf.errors import BackendCorrupt, BackendUnavailable, NotFound
from pspf.records import DEAD_LETTER_SUFFIX, parse_id

_REPLAY: Final = load_script("replay")
_REPLAY_TO: Final = load_script("replay_to")
_TRIES: Final = 3
_ALL: Final = 1 << 62


async def list_letters(core: Core, topic: str | None, group: str | None) -> list[StoredDeadLetter]:
    """Return dead letters of one source topic or all, oldest first."""
    found: list[StoredDeadLetter] = []
    for companion in await core.topics.list():
        source = companion.name.removesuffix(DEAD_LETTER_SUFFIX)
        if source == companion.name or (topic is not None and topic not in (source, companion.name)):
            continue
        for number in range(companion.count):
            try:
                records = await read_range(core, companion, number, 0, _ALL)
            except BackendCorrupt as error:
                leave_out(f"topic {companion.name!r}", error)
                continue
            letters = (decode_letter(record) for record in records)
            found += [letter for letter in letters if letter is not None and group in (None, letter.group)]
    return sorted(found, key=lambda letter: letter.dead_at_ms)


async def replay(core: Core, letters: Sequence[StoredDeadLetter], to: str | None) -> int:
    """Make dead letters retry entries again, or append them to `to`; return how many were there.

    Raises:
        NotFound: The cursor that gave one up is gone (`to` still works). Others as in `check_replay`.
    """
    check_replay(letters, to)
    if to is not None:
        return await _move(core, letters, to)
    return await _retry(core, letters)


async def _retry(core: Core, letters: Sequence[StoredDeadLetter]) -> int:
    """Make all of them retry entries, with their own bytes where their records were trimmed; return how many."""
    keys: list[bytes] = []
    arguments: list[Argument] = [core.now()]
    known: list[StoredDeadLetter] = []
    for letter in letters:
        companion = await core.topics.find(letter.record.topic)
        if companion is None:
            continue
        source = await core.topics.find(letter.topic)
        if source is None or letter.partition >= source.count:
            raise _gone(letter)
        key = letter.record.raw_key if letter.ordered else None
        cursor = source.partition(letter.partition).cursor(letter.group, letter.handler if letter.ordered else None)
        stream = companion.partition(letter.record.partition).stream
        keys += [stream, cursor.partition.stream, cursor.meta, cursor.due, cursor.retry]
        arguments += [
            format_entry_id(letter.record.offset),
            format_entry_id(parse_id(letter.original_id)[1]),
            pack_retry(0, None, key, letter.error),
            pack_replayed(letter),
        ]
        known.append(letter)
    if not known:
        return 0
    reply = await core.lane_for(keys[0]).run(_REPLAY, keys, arguments)
    if isinstance(reply, list):
        raise _gone(known[reply[0]])
    replayed: int = reply
    return replayed


def _gone(letter: StoredDeadLetter) -> NotFound:
    return NotFound(f"dead letter {letter.record.id}: group {letter.group!r} has no such cursor any more; use --to")


async def _move(core: Core, letters: Sequence[StoredDeadLetter], to: str) -> int:
    moved = 0
    for letter in letters:
        companion = await core.topics.find(letter.record.topic)
        if companion is None:
            continue
        stream = companion.partition(letter.record.partition).stream
        fresh = as_new(letter)
        shapes, parts = pack_records([fresh])
        for _ in range(_TRIES):
            target = await core.topics.ensure(to)
            (number,) = core.router.route(target.name, target.count, [fresh])
            keys = target.partitions[number]
            arguments = (core.now(), format_entry_id(letter.record.offset), target.count, shapes, *parts)
            reply = await core.lane_for(stream).run(_REPLAY_TO, (stream, keys.stream, keys.meta), arguments)
            if reply >= 0:
                moved += reply
                break
            core.topics.forget(to)  # deleted, or all was flushed, since we saw it
        else:
            raise BackendUnavailable(f"{core.connector.name}: topic {to!r} vanishes while it is written")
    return moved


async def purge(core: Core, letters: Sequence[StoredDeadLetter]) -> int:
    """Remove dead letters; return how many were there."""
    removed = 0
    for letter in letters:
        topic = await core.topics.find(letter.record.topic)
        if topic is not None and letter.record.partition < topic.count:
            stream = topic.partition(letter.record.partition).stream
            removed += await core.lane_for(stream).call("XDEL", stream, format_entry_id(letter.record.offset))
    return removed

"""Dead letters of the embedded broker: replayed or purged."""

from collections.abc import Sequence

from pspf.connectors.contract.values import StoredDeadLetter
from pspf.connectors.letters import as_new, check_replay, decode_letter
from pspf.connectors.sqlite.effects import append_and_tell
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.log import Log, read_range, remove
from pspf.connectors.sqlite.pending import forget_removed
from pspf.connectors.sqlite.replayed import keep
from pspf.connectors.sqlite.storage import Storage
from pspf.connectors.sqlite.topics import OFFSET_BITS, find_topic
from pspf.errors import NotFound
from pspf.records import DEAD_LETTER_SUFFIX, parse_id


def list_letters(storage: Storage, topic: str | None, group: str | None) -> list[StoredDeadLetter]:
    """Return dead letters of one source topic or all, oldest first."""
    names = [row[0] for row in storage.rows("SELECT topic FROM topics ORDER BY topic")]
    found: list[StoredDeadLetter] = []
    for name in names:
        source = name.removesuffix(DEAD_LETTER_SUFFIX)
        if source == name or (topic is not None and topic not in (source, name)):
            continue
        companion = find_topic(storage, name)
        assert companion is not None
        for p in companion.partitions:
            records = read_range(storage, name, p.partition_id, p.partition, p.first, p.next, p.next)
            letters = (decode_letter(record) for record in records)
            found += [letter for letter in letters if letter is not None and group in (None, letter.group)]
    return sorted(found, key=lambda letter: letter.dead_at_ms)


def replay(engine: Engine, log: Log, storage: Storage, letters: Sequence[StoredDeadLetter], to: str | None) -> int:
    """Make dead letters retry entries again, or append them to `to`; return how many were there.

    Raises:
        NotFound: The cursor that gave one up is gone; `to` still works. Others as in `check_replay`.
    """
    check_replay(letters, to)
    replayed = 0
    for letter in letters:
        if purge(engine, storage, [letter]) == 0:
            continue
        if to is None:
            _retry(engine, storage, letter)
        else:
            append_and_tell(engine, log, storage, to, [as_new(letter)], engine.clock.now_ms())
        replayed += 1
    return replayed


def purge(engine: Engine, storage: Storage, letters: Sequence[StoredDeadLetter]) -> int:
    """Remove dead letters; return how many were there."""
    removed = 0
    for letter in letters:
        topic = find_topic(storage, letter.record.topic)
        if topic is not None:
            partition_id = topic.partitions[letter.record.partition].partition_id
            removed += remove(storage, partition_id, [letter.record.offset])
            forget_removed(storage, engine, partition_id, [letter.record.offset])  # by who subscribes to dead letters
    return removed


def _retry(engine: Engine, storage: Storage, letter: StoredDeadLetter) -> None:
    """Make a dead letter a retry entry again; where its record was trimmed, it keeps the letter's bytes."""
    handler = letter.handler if letter.ordered else ""
    row = storage.row(
        "SELECT c.cursor_id, c.partition_id FROM cursors c JOIN partitions p USING (partition_id)"
        " JOIN topics t USING (topic_id) WHERE t.topic = ? AND p.partition = ? AND c.group_name = ? AND c.handler = ?",
        (letter.topic, letter.partition, letter.group, handler),
    )
    if row is None:
        raise NotFound(f"dead letter {letter.record.id}: group {letter.group!r} has no such cursor any more; use --to")
    cursor_id, partition_id = row
    offset = parse_id(letter.original_id)[1]
    place = partition_id << OFFSET_BITS | offset
    if storage.row("SELECT 1 FROM records WHERE place = ?", (place,)) is None:
        keep(storage, cursor_id, offset, letter)
    key = letter.record.raw_key if letter.ordered else None
    now_ms = engine.clock.now_ms()
    storage.run(
        "INSERT OR REPLACE INTO retries VALUES (?, ?, ?, 0, ?, ?)", (cursor_id, offset, key, now_ms, letter.error)
    )
    if key is not None:
        storage.run(
            "UPDATE retries SET due_ms = NULL WHERE cursor_id = ? AND key = ? AND offset > ?", (cursor_id, key, offset)
        )
    storage.run("UPDATE cursors SET sequence = sequence + 1 WHERE cursor_id = ?", (cursor_id,))
    engine.grown.add(partition_id)

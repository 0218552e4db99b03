"""Commits as script arguments: flat lists, in which payloads and ids are opaque."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pspf.connectors.letters import encode_letter
from pspf.connectors.valkey.connection.scripts import Argument, ScriptCall
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.fields import format_entry_id, pack_records, pack_retry
from pspf.connectors.valkey.log.keys import PartitionKeys
from pspf.connectors.valkey.log.topics import Topic
from pspf.errors import BackendUnavailable
from pspf.records import DEAD_LETTER_SUFFIX, LATE_SUFFIX, Commit, Cursor, NewRecord, Retry, check_name

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

ALWAYS: Final = 0
"""The number of the record that an effect comes from, where it counts whatever happens to the others."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a commit appends, as effects.lua takes it: the keys, and what stands in ARGV about them.

    `topics` has the topic of each stream.
    """

    topics: Sequence[str]
    keys: Sequence[bytes]
    arguments: Sequence[Argument]


NO_EFFECTS: Final = Effects((), (), ())
_TRIES: Final = 5


Late = tuple[Cursor, Sequence[NewRecord]]
"""Records that came too late for a cursor."""


async def run_commit(
    core: "Core",
    lane: Lane,
    cursor: Cursor,
    commit: Commit,
    numbers: Mapping[int, int] | None,
    make_call: Callable[[Effects], ScriptCall],
    late_beside: Sequence[Late] = (),
) -> Any:
    """Run the script of a commit, with what it appends where that belongs by now; return its reply.

    A topic that was deleted or repartitioned since we saw it is looked up again: the script writes nothing then.
    """
    for _ in range(_TRIES):
        effects = await pack_effects(core, cursor, commit, numbers, late_beside)
        call = make_call(effects)
        reply = await lane.run(call.script, call.keys, call.arguments)
        if reply[0] != b"MOVED":
            return reply
        moved = {effects.topics[number - 1] for number in reply[1:]}
        for name in moved:
            core.topics.forget(name)
    raise BackendUnavailable(f"{cursor}: topics {sorted(moved)} vanish while it appends to them; nothing was committed")


async def pack_effects(
    core: "Core",
    cursor: Cursor,
    commit: Commit,
    numbers: Mapping[int, int] | None,
    late_beside: Sequence[Late] = (),
) -> Effects:
    """Return the emits, late records and dead letters of a commit, each topic's in order.

    Topics are made where missing. `numbers` says which record of the commit an offset is, None where all
    stand together (ordered mode).

    Raises:
        ConfigurationError: A topic's name is not one; nothing was made.
    """
    late = [(of, records) for of, records in ((cursor, commit.late), *late_beside) if records]
    if not commit.emits and not commit.dead and not late:
        return NO_EFFECTS
    by_topic: dict[str, tuple[list[NewRecord], list[int]]] = {}
    for emit in commit.emits:
        records, sources = by_topic.setdefault(emit.topic, ([], []))
        # De-duplication is for emits from outside: these are exactly once by the commit.
        records.append(emit.record if emit.record.event_id is None else emit.record._replace(event_id=None))
        sources.append(emit.source)
    for name in by_topic:
        check_name("topic", name)
    places: dict[bytes, _Place] = {}
    for name, (records, sources) in by_topic.items():
        topic = await core.topics.ensure(name)
        for partition, indices in core.router.route(topic.name, topic.count, records).items():
            place = _place(places, topic, partition)
            place.records.extend([records[at] for at in indices])
            place.sources.extend([sources[at] for at in indices])
    for of, too_late in late:
        topic = await core.topics.ensure(of.topic + LATE_SUFFIX)
        place = _place(places, topic, of.partition % topic.count)
        place.records.extend(too_late)
        place.sources.extend([ALWAYS] * len(too_late))
    for letter in commit.dead:
        record = letter.record
        topic = await core.topics.ensure(record.topic + DEAD_LETTER_SUFFIX)
        place = _place(places, topic, record.partition % topic.count)
        place.records.append(NewRecord(record.raw_key, record.value, encode_letter(letter, ordered=numbers is None)))
        place.sources.append(record.offset)
    heads: list[Argument] = []
    parts: list[Argument] = []
    for place in places.values():
        shapes, of_records = pack_records(place.records)
        sources_text = ""
        if numbers is not None:
            sources_text = " ".join([str(numbers.get(offset, ALWAYS)) for offset in place.sources])
        heads += (shapes, sources_text, place.topic.count)
        parts += of_records
    metas = [place.keys.meta for place in places.values()]
    return Effects([place.topic.name for place in places.values()], [*places, *metas], heads + parts)


@dataclass(frozen=True, slots=True)
class _Place:
    """What is appended to one partition of a topic, and which offset each record comes from."""

    topic: Topic
    keys: PartitionKeys
    records: list[NewRecord]
    sources: list[int]


def _place(places: dict[bytes, _Place], topic: Topic, partition: int) -> _Place:
    keys = topic.partitions[partition]
    return places.setdefault(keys.stream, _Place(topic, keys, [], []))


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """The records of a shared commit: `plain` ones are done and that is all, of `others` there is more to do."""

    plain: Sequence[int]
    others: Sequence[int]
    in_hand: Sequence[bytes | None]
    """What was known of the plain ones and the others, in turn: the very ids, None where nothing was."""
    arguments: Sequence[Argument]
    """The first and the last id, then all that commit_shared.lua takes about the records."""
    is_known: bool
    """Whether all of them are in hand, as far as the consumer knows."""


def sort_shared(commit: Commit, hand: Mapping[int, bytes], noted: set[int]) -> SharedBatch:
    """Return the records of a commit as the script takes them.

    `hand` has the ids of what was delivered and not settled; of what is `noted` there are entries to remove.
    """
    done = commit.done
    retries: dict[int, Retry] = {retry.offset: retry for retry in commit.retries}
    special = {emit.source for emit in commit.emits}
    special.update(letter.record.offset for letter in commit.dead)
    if noted:
        special.update(noted)
    if special or retries:
        plain: Sequence[int] = [offset for offset in done if offset not in special and offset not in retries]
        others = [*[offset for offset in done if offset in special and offset not in retries], *retries]
    else:
        plain, others = done, []
    known = hand.get
    everything = [*plain, *others] if others else plain
    in_hand = [known(offset) for offset in everything]
    is_known = None not in in_hand
    first, last = min(everything, default=0), max(everything, default=0)
    arguments: list[Argument] = [format_entry_id(first), format_entry_id(last)]
    arguments += [format_entry_id(offset) if raw is None else raw for offset, raw in zip(plain, in_hand, strict=False)]
    for offset in others:
        retry = retries.get(offset)
        arguments.append(format_entry_id(offset))
        if retry is None:
            arguments += ("", "")
        else:
            due_ms = 0 if retry.due_ms is None else retry.due_ms
            arguments += (due_ms, pack_retry(retry.attempts, None, retry.key, retry.error))
    return SharedBatch(plain, others, in_hand, arguments, is_known)


def pack_waiting(commit: Commit, waiting: set[int]) -> tuple[Sequence[Argument], Sequence[Argument]]:
    """Return what an ordered commit does to the records that wait: the ids that are done, and its retries."""
    done: list[Argument] = [format_entry_id(offset) for offset in commit.done if offset in waiting]
    retries: list[Argument] = []
    for retry in commit.retries:
        retries += (
            format_entry_id(retry.offset),
            "+inf" if retry.due_ms is None else retry.due_ms,
            pack_retry(retry.attempts, None, retry.key, retry.error),
        )
    return done, retries

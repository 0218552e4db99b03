"""The shared mode: workers of a consumer group take records; a commit finishes those that are pending on its worker.

Records that a worker handles are pending on it in the group, retries too; records that no worker handles and
that are not done are in the cursor's `due`. The gate of a commit is each record's own pending entry: whoever
lost it writes nothing for that record.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pspf import faults
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.values import Lease
from pspf.connectors.letters import check_size
from pspf.connectors.valkey.connection.blocking_reads import ReadSize
from pspf.connectors.valkey.connection.failures import GroupGone, ReplyTooLarge
from pspf.connectors.valkey.connection.scripts import Argument, ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.after_commit import after_commit
from pspf.connectors.valkey.consume.commits import Effects, SharedBatch, run_commit, sort_shared
from pspf.connectors.valkey.consume.liveness import Member
from pspf.connectors.valkey.consume.refunds import refund
from pspf.connectors.valkey.consume.replayed import decode_taken
from pspf.connectors.valkey.log.fields import decode_entries, format_entry_id, parse_entry_id, unpack_retry
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.errors import BackendUnavailable, CommitFenced, StateUnavailable
from pspf.loggers import get_logger
from pspf.records import Batch, Commit, Cursor, Record

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

logger = get_logger(__name__)

_TAKE: Final = load_script("take")
_COMMIT: Final = load_script("commit_shared", "effects")
_INTEND: Final = load_script("intend")
_RECOVER: Final = load_script("recover")
_RELEASE: Final = load_script("release_shared")
_EMPTY: Final = Batch((), 0)


class SharedConsumer(Consumer):
    """A shared cursor, consumed beside others."""

    is_remote = True

    def __init__(self, core: "Core", member: Member, cursor: Cursor, keys: CursorKeys, partitions: int) -> None:
        self.cursor = cursor
        self.lease: Lease | None = None
        self._core = core
        self._member = member
        self._keys = keys
        self._partitions = partitions
        """How many the topic has, as far as this consumer knows."""
        self._healing = member.healing(cursor.topic, cursor.group)
        self._was_healed = False
        """Whether the group was made again, and nothing was read since."""
        self._suspects = keys.key(b"suspects")
        self._reads = core.open_reads(keys.partition.stream, member.lanes)
        self._size = ReadSize()
        self._left = _EMPTY
        """What was read and not given out: more than was asked for, or of a poll that was cancelled."""
        self._hand: dict[int, bytes] = {}
        """Offset -> id of what was delivered and not settled."""
        self._noted: set[int] = set()
        """What of it has an entry among the retries or the suspects."""
        self._doubtful: set[int] = set()
        """What of it was delivered before the last time that records were taken from a session."""
        self._takes = b""
        self._took = False
        self._others: list[bytes] = []
        self._runs = 0
        self._alone: int | None = None
        """The offset of the suspect record that runs alone, if one does."""
        self._is_ending = False

    # Taking

    @property
    def _commits(self) -> Lane:
        """The lane for commits of this cursor."""
        return self._member.lane_for(self._keys.partition)

    async def poll(self, *, max_records: int, timeout_ms: int, retries_only: bool = False) -> Batch:
        await self._core.tick()
        faults.reach("read.sent")
        await self._reads.lane.wait_for_turn()  # a poll that was cancelled may have a read under way
        if not self._left.records:
            await self._read(max_records, timeout_ms, retries_only)
        faults.reach("read.reply")
        batch, self._left = self._left, _EMPTY
        if len(batch.records) > max_records and not batch.suspect:
            self._left = batch._replace(records=batch.records[max_records:])
            records = batch.records[:max_records]
            batch = Batch(records, records[-1].offset + 1)
        return batch

    async def _read(self, max_records: int, timeout_ms: int, retries_only: bool) -> None:
        """Read until something is left to give out, or the time is up."""
        deadline = self._reads.begin(timeout_ms)
        if self._took and not retries_only:
            self._took = False  # retries without end must not keep new ones waiting
            if await self._read_new(max_records, 0):
                return
        while True:
            if self._reads.is_look_due or timeout_ms == 0 or retries_only:
                await self._take(max_records)
                if self._left.records:
                    return
            block_ms = self._reads.block_ms(deadline) if timeout_ms and not self._is_ending else 0
            if not retries_only:
                if await self._read_new(max_records, block_ms):
                    return
            elif block_ms:
                await self._reads.pause(block_ms)
            is_to_try = self._was_healed and not retries_only  # what was made again, is it there?
            if self._is_ending or (self._reads.is_over(deadline) and not is_to_try):
                return

    async def _read_new(self, max_records: int, block_ms: int) -> bool:
        """Read records that were not delivered before; return whether there were any."""
        keys, session = self._keys, self._member.session
        takes, healed = self._takes, self._healing.times
        count = self._size.of(max_records)
        try:
            reply = await self._reads.read(
                ("XREADGROUP", "GROUP", keys.group, session, "COUNT", count),
                ("STREAMS", keys.partition.stream, ">"),
                block_ms,
                lambda reply: self._receive(reply, takes),
                self._size.room(count),
            )
        except ReplyTooLarge:  # they are pending on us: given back, they are taken a few at a time
            self._size.shrink(count)
            await self._recover("were too large together")
            self._reads.looked(0)
            return False
        except GroupGone:
            if self._was_healed:  # in vain: the next try makes it again
                self._was_healed = False
                raise
            await self._heal(healed)
            self._was_healed = True
            return False
        self._was_healed = False
        self._receive(reply, takes)
        if reply and self._core.has_own_clock:
            await self._stamp(reply[0][1])
        return bool(self._left.records)

    def _receive(self, reply: Any, takes: bytes) -> None:
        """Take in the reply of a read that was sent when the number of takes was `takes`."""
        if not reply:
            return
        entries = reply[0][1]
        records = decode_entries(self.cursor.topic, self.cursor.partition, entries)
        offsets = [record[2] for record in records]
        self._hand.update(zip(offsets, [entry[0] for entry in entries], strict=True))
        if takes != self._takes:
            self._doubtful.update(offsets)
        if records:
            self._left = Batch(records, offsets[-1] + 1)

    async def _stamp(self, entries: Sequence[Any]) -> None:
        """Write the caller's time over the delivery time, which is the server's."""
        keys = self._keys
        await self._commits.call(
            "XCLAIM", keys.partition.stream, keys.group, self._member.session, 0, *[entry[0] for entry in entries],
            "TIME", self._core.now(), "JUSTID",
        )  # fmt: skip

    async def _take(self, max_records: int) -> None:
        """Take due retries and the records of dead sessions."""
        partition = self._keys.partition
        while True:
            keys = [*self._script_keys, *[partition.live(name) for name in self._others]]
            arguments: list[Argument] = [self._core.now(), self._keys.group, self._member.session, max_records]
            in_hand, healed = len(self._hand), self._healing.times
            reply = await self._reads.look(_TAKE, keys, [*arguments, *self._others], self._receive_taken)
            self._receive_taken(reply)
            if reply[0] == b"GONE":
                await self._heal(healed)
                continue
            is_more, pending = reply[6] == b"1", reply[9]
            is_unknown = pending > in_hand and await self._recover()
            if self._left.records or (not is_more and not is_unknown):
                return

    def _receive_taken(self, reply: Any) -> None:
        """Take in the reply of the script that takes."""
        if reply[0] == b"GONE":
            return
        takes, wait_ms, entries, packed, is_suspect, crashes, _, unknown, deleted, _ = reply
        self._note_takes(takes)
        self._reads.looked(wait_ms)
        if deleted:
            logger.warning("%s: %d records were deleted before they were handled", self.cursor, deleted)
        if unknown:
            self._others = unknown
        if entries:
            self._took = True
            self._left = self._deliver(entries, packed, crashes if is_suspect == b"1" else None)

    async def _recover(self, why: str = "came in a reply that was lost") -> bool:
        """Give back records that are pending on us and unknown to us: their reply was lost. Return whether any were."""
        keys = self._keys
        where = [keys.partition.stream, keys.meta, keys.due, self._suspects, keys.lent]
        recovered, is_more = 0, b"1"
        while is_more == b"1":
            known = list(self._hand.values())
            given, is_more = await self._commits.run(_RECOVER, where, [keys.group, self._member.session, *known])
            recovered += given
        if recovered:
            logger.warning("%s: %d records %s; they come again", self.cursor, recovered, why)
        return recovered > 0

    @property
    def _script_keys(self) -> list[bytes]:
        keys = self._keys
        return [keys.partition.stream, keys.meta, keys.due, keys.retry, self._suspects, keys.lent]

    def _deliver(self, entries: Sequence[Any], packed: Sequence[bytes], crashes: int | None) -> Batch:
        attempts = {
            parse_entry_id(raw_id): unpack_retry(retry)[0]
            for raw_id, retry in zip(packed[::2], packed[1::2], strict=True)
        }
        records = decode_taken(self.cursor.topic, self.cursor.partition, entries)
        self._hand.update((record.offset, format_entry_id(record.offset)) for record in records)
        self._noted.update(attempts)
        if attempts:
            records = [record._replace(attempts=attempts.get(record.offset, 0)) for record in records]
        records.sort(key=_offset)
        end = records[-1].offset + 1
        if crashes is None:
            return Batch(records, end)
        self._noted.update(record.offset for record in records)
        return Batch(records, end, suspect=True, crashes=crashes if len(records) == 1 else 0)

    def _note_takes(self, takes: bytes) -> None:
        if takes != self._takes:
            self._takes = takes
            self._doubtful.update(self._hand)

    async def _heal(self, seen: int) -> None:
        """Create the group again. Pending records belong to a stream that is deleted: no commit of theirs counts.

        Raises:
            CommitFenced: The topic came back with another number of partitions.
        """
        self._hand.clear()
        self._noted.clear()
        self._doubtful.clear()
        self._takes = b""
        await self._healing.heal(seen, self._rejoin)
        topic = await self._core.topics.ensure(self.cursor.topic)
        if topic.count != self._partitions:
            raise CommitFenced(
                f"{self.cursor}: its stream was deleted, and {topic.name!r} has {topic.count} partitions now, not"
                f" {self._partitions}"
            )

    async def _rejoin(self) -> None:
        cursor = self.cursor
        if not await self._member.rejoin(cursor.topic, cursor.group, cursor.handler):
            raise BackendUnavailable(f"{cursor}: its consumer group is gone")

    # Settling

    async def commit(self, commit: Commit) -> Sequence[int]:
        check_size(commit, self._core.limits)
        if commit.changes:
            raise StateUnavailable(f"{self.cursor}: a shared cursor keeps no state")
        batch = sort_shared(commit, self._hand, self._noted)
        numbers = {offset: number for number, offset in enumerate(batch.others, 1)}
        is_sure = batch.is_known and not commit.whole
        if is_sure and self._doubtful:
            is_sure = self._doubtful.isdisjoint(batch.plain) and self._doubtful.isdisjoint(batch.others)
        arguments: list[Argument] = [
            self._core.now(),
            self._keys.group,
            self._member.session,
            commit.commit_id,
            self._takes if is_sure else "",
            "1" if commit.whole else "",
        ]

        def make_call(effects: Effects) -> ScriptCall:
            counts = (len(effects.topics), len(batch.plain), len(batch.others))
            return ScriptCall(
                _COMMIT,
                [*self._script_keys, *effects.keys],
                [*arguments, *counts, *batch.arguments, *effects.arguments],
            )

        faults.reach("commit.sent")
        reply = await run_commit(self._core, self._commits, self.cursor, commit, numbers, make_call)
        faults.reach("commit.reply")
        lost = self._settle(batch, reply)
        if self._alone is not None and self._alone in lost:
            await refund(self._commits, self.cursor, self._keys.meta, self._suspects, self._alone)
        self._alone = None
        await after_commit(self._core, self._commits, self._reads, self.cursor, commit)
        return lost

    def _settle(self, batch: SharedBatch, reply: Any) -> Sequence[int]:
        """Forget the finished records; return those that were no longer ours."""
        everything = [*batch.plain, *batch.others] if batch.others else batch.plain
        hand = self._hand
        settled: Sequence[int] = everything
        if reply[0] == b"GONE" or reply[2] or batch.others:
            # A retry, or a record that was given back, may be pending here again, with an id object of its own
            settled = [
                offset
                for offset, raw in zip(everything, batch.in_hand, strict=True)
                if raw is not None and hand.get(offset) is raw
            ]
        forget = hand.pop
        for offset in settled:
            forget(offset, None)
        for some in (self._noted, self._doubtful):
            if some:
                some.difference_update(settled)
        if reply[0] == b"GONE":
            return sorted(everything)
        takes, counted, lost_ids = reply
        self._note_takes(takes)
        plain = batch.plain
        if counted == len(plain) and not lost_ids:
            return ()
        lost = {parse_entry_id(raw_id) for raw_id in lost_ids}
        known = len(lost.intersection(plain))
        if counted + known < len(plain):
            # They were acknowledged past us, by hand; which of them, XACK does not tell.
            logger.warning("%s: %d records in hand were not pending", self.cursor, len(plain) - counted - known)
            if counted == 0:
                lost.update(plain)
        return sorted(lost)

    async def intend(self, offsets: Sequence[int], *, is_alone: bool = True) -> None:
        if not is_alone and len(offsets) == 1:  # a range is halved in any case
            if await self._commits.call("HDEL", self._keys.meta, f"s:{self._member.session}"):
                self._alone = None  # else this session was taken for dead meanwhile, and its commit asks for a refund
            return
        self._runs += 1
        self._alone = offsets[0] if len(offsets) == 1 else None
        label = f"{self._member.session}#{self._runs}"
        ids = [format_entry_id(offset) for offset in sorted(offsets)]
        keys = [self._keys.partition.stream, self._keys.meta, self._suspects, self._keys.lent]
        await self._commits.run(_INTEND, keys, [self._keys.group, self._member.session, label, *ids])

    async def release(self) -> None:
        faults.reach("release")
        await self._end_reading()
        keys = self._keys
        where = [keys.partition.stream, keys.meta, keys.due, self._suspects, keys.lent]
        while await self._commits.run(_RELEASE, where, [keys.group, self._member.session]) == b"1":
            pass
        self._hand.clear()
        self._noted.clear()
        self._doubtful.clear()
        self._left = _EMPTY
        await self._reads.close()

    async def _end_reading(self) -> None:
        """Have the read that is under way come back: what it is given must be known before all is given back."""
        self._is_ending = True
        try:
            await self._reads.end()
        finally:
            self._is_ending = False

    def abandon(self) -> None:
        """Stop as a killed process does."""
        self._reads.abandon()


def _offset(record: Record) -> int:
    return record.offset

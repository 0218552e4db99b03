"""Operations of an administrator on the embedded broker."""

from collections.abc import Sequence
from dataclasses import replace

from pspf.connectors.contract.operations import (
    BrokerInfo,
    Check,
    Loss,
    Operations,
    PendingRecord,
    Seek,
    Trimmed,
)
from pspf.connectors.sqlite import doctor, pending, seek, topics, trim
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.liveness import Liveness
from pspf.connectors.sqlite.repartition import plan_repartition, repartition
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import Refused
from pspf.records import Cursor


class SQLOperations(Operations):
    """Each is one transaction, but `trim`, which is many short ones."""

    def __init__(self, engine: Engine, liveness: Liveness) -> None:
        self._engine = engine
        self._is_dead = liveness.is_dead

    async def seek(
        self, cursor: Cursor, offset: int, *, keep_state: bool | None = None, force: bool = False, dry_run: bool = False
    ) -> Seek:
        def plan(storage: Storage) -> tuple[Seek, int, int]:
            return seek.plan_seek(storage, cursor, offset, keep_state, force, self._is_dead)

        def move(storage: Storage) -> Seek:
            planned, cursor_id, partition_id = plan(storage)
            seek.move(storage, self._engine, cursor_id, partition_id, planned.after, reset=keep_state is False)
            return planned

        return (await self._engine.read(plan))[0] if dry_run else await self._engine.write(move)

    async def delete_group(
        self,
        group: str,
        *,
        topic: str | None = None,
        handler: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> int:
        def plan(storage: Storage) -> list[tuple[int, int]]:
            return seek.plan_delete(storage, group, topic, handler, force, self._is_dead)

        def delete(storage: Storage) -> int:
            cursors = plan(storage)
            seek.delete_cursors(storage, self._engine, group, topic, handler, cursors)
            return len(cursors)

        return len(await self._engine.read(plan)) if dry_run else await self._engine.write(delete)

    async def rename_handler(
        self, group: str, old: str, new: str, *, topic: str | None = None, dry_run: bool = False
    ) -> int:
        def plan(storage: Storage) -> tuple[list[int], list[int]]:
            return seek.plan_rename(storage, group, old, new, topic, self._is_dead)

        def rename(storage: Storage) -> int:
            cursors, untouched = plan(storage)
            seek.rename(storage, cursors, untouched, new)
            return len(cursors)

        return len((await self._engine.read(plan))[0]) if dry_run else await self._engine.write(rename)

    async def list_pending(
        self, group: str, *, topic: str | None = None, max_records: int = 1_000
    ) -> Sequence[PendingRecord]:
        now_ms = self._engine.clock.now_ms()
        return await self._engine.read(lambda storage: pending.list_pending(storage, group, topic, max_records, now_ms))

    async def retry_pending(self, records: Sequence[PendingRecord]) -> int:
        return await self._engine.write(lambda storage: pending.retry_pending(storage, self._engine, records))

    async def drop_pending(self, records: Sequence[PendingRecord]) -> int:
        return await self._engine.write(lambda storage: pending.drop_pending(storage, self._engine, records))

    async def trim(
        self,
        topic: str,
        partition: int,
        *,
        before: int | None = None,
        max_records: int | None = None,
        max_bytes: int | None = None,
        drop_unread: bool = False,
        dry_run: bool = False,
    ) -> Trimmed:
        wish = trim.Wish(before, max_records, max_bytes)
        planned = await self._engine.read(lambda storage: trim.plan_trim(storage, topic, partition, wish, drop_unread))
        if dry_run:
            return planned
        records = size_bytes = 0
        after = planned.before
        lost: dict[Cursor, int] = {}
        while after < planned.after:
            step = await self._engine.write(
                lambda storage: trim.trim_step(storage, self._engine, topic, partition, planned.after, drop_unread)
            )
            if step.after <= step.before:
                break  # another one has trimmed meanwhile, or a group was moved back
            after = step.after
            records += step.records
            size_bytes += step.size_bytes or 0
            for loss in step.lost:
                lost[loss.cursor] = lost.get(loss.cursor, 0) + loss.records
        losses = [Loss(cursor, count) for cursor, count in lost.items()]
        return replace(planned, after=after, records=records, size_bytes=size_bytes, lost=losses)

    async def delete_topic(self, topic: str, *, force: bool = False, dry_run: bool = False) -> Sequence[str]:
        run = self._engine.read if dry_run else self._engine.write
        return await run(lambda storage: self._delete_topic(storage, topic, force, dry_run))

    def _delete_topic(self, storage: Storage, topic: str, force: bool, dry_run: bool) -> list[str]:
        found = topics.get_topic(storage, topic)
        family = [found, *topics.companions_of(storage, topic)]
        cursors = [
            (member.topic, *row)
            for member in family
            for row in storage.rows(
                "SELECT c.group_name, c.cursor_id FROM cursors c JOIN partitions p USING (partition_id)"
                " WHERE p.topic_id = ? ORDER BY c.group_name",
                (member.topic_id,),
            )
        ]
        if cursors and not force:
            names = list(dict.fromkeys(f"{group} on {name}" for name, group, _ in cursors))
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise Refused(
                f"topic {topic!r} has groups: {shown}\n"
                "  delete them first (pspf groups delete), or add --force to delete all with the topic"
            )
        if dry_run:
            return [member.topic for member in family]
        with topics.ids_used_once(storage):
            for _, _, cursor_id in cursors:
                seek.delete_cursor(storage, cursor_id)
            for member in family:
                topics.delete_topic(storage, member)
                self._engine.grown.update(partition.partition_id for partition in member.partitions)
        return [member.topic for member in family]

    async def repartition(
        self, topic: str, partitions: int, *, reset_state: bool = False, dry_run: bool = False
    ) -> int:
        def plan(storage: Storage) -> list[topics.Topic]:
            return plan_repartition(storage, topic, partitions, reset_state, self._is_dead)

        def copy(storage: Storage) -> list[topics.Topic]:
            family = plan(storage)
            repartition(storage, self._engine, family, partitions)
            return family

        found = (await (self._engine.read(plan) if dry_run else self._engine.write(copy)))[0]
        return sum(partition.records for partition in found.partitions)

    async def set_retention(self, topic: str, retention_ms: int | None, *, dry_run: bool = False) -> int | None:
        run = self._engine.read if dry_run else self._engine.write
        return await run(lambda storage: topics.set_retention(storage, topic, retention_ms, dry_run))

    async def read_info(self) -> BrokerInfo:
        return await self._engine.read(lambda storage: doctor.read_info(storage, self._engine.limits))

    async def diagnose(self) -> Sequence[Check]:
        return await self._engine.read(lambda storage: list(doctor.diagnose(storage, self._engine, self._is_dead)))

"""Operations of an administrator on a Valkey or Redis server."""

from collections.abc import Sequence

from pspf.connectors.contract.operations import BrokerInfo, Check, Operations, PendingRecord, Seek, Trimmed
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.operations import deleting, doctor, pending, retaining, seeking, trimming
from pspf.connectors.valkey.operations.renaming import rename_handler
from pspf.connectors.valkey.operations.repartition import repartition
from pspf.records import Cursor


class ValkeyOperations(Operations):
    """What changes one cursor or trims one step is one script each; what removes a whole topic is several."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def seek(
        self, cursor: Cursor, offset: int, *, keep_state: bool | None = None, force: bool = False, dry_run: bool = False
    ) -> Seek:
        return await seeking.seek(self._core, cursor, offset, keep_state, force, dry_run)

    async def delete_group(
        self,
        group: str,
        *,
        topic: str | None = None,
        handler: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> int:
        return await seeking.delete_group(self._core, group, topic, handler, force, dry_run)

    async def rename_handler(
        self, group: str, old: str, new: str, *, topic: str | None = None, dry_run: bool = False
    ) -> int:
        return await rename_handler(self._core, group, old, new, topic, dry_run)

    async def list_pending(
        self, group: str, *, topic: str | None = None, max_records: int = 1_000
    ) -> Sequence[PendingRecord]:
        return await pending.list_pending(self._core, group, topic, max_records)

    async def retry_pending(self, records: Sequence[PendingRecord]) -> int:
        return await pending.retry_pending(self._core, records)

    async def drop_pending(self, records: Sequence[PendingRecord]) -> int:
        return await pending.drop_pending(self._core, records)

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
        wish = trimming.Wish(before, max_records, max_bytes)
        planned = await trimming.plan_trim(self._core, topic, partition, wish, drop_unread)
        return planned if dry_run else await trimming.execute_trim(self._core, topic, planned, drop_unread)

    async def delete_topic(self, topic: str, *, force: bool = False, dry_run: bool = False) -> Sequence[str]:
        return await deleting.delete_topic(self._core, topic, force, dry_run)

    async def repartition(
        self, topic: str, partitions: int, *, reset_state: bool = False, dry_run: bool = False
    ) -> int:
        return await repartition(self._core, topic, partitions, reset_state, dry_run)

    async def set_retention(self, topic: str, retention_ms: int | None, *, dry_run: bool = False) -> int | None:
        return await retaining.set_retention(self._core, topic, retention_ms, dry_run)

    async def read_info(self) -> BrokerInfo:
        return await doctor.read_info(self._core)

    async def diagnose(self) -> Sequence[Check]:
        return await doctor.diagnose(self._core)

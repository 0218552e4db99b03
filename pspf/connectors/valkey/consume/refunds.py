"""Refunds of crash charges: a session that was declared dead and lives has crashed on no record."""

from typing import Final

from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.log.fields import format_entry_id
from pspf.loggers import get_logger
from pspf.records import Cursor

logger = get_logger(__name__)

_REFUND: Final = load_script("refund")


async def refund(lane: Lane, cursor: Cursor, meta: bytes, suspects: bytes | None, offset: int) -> None:
    """Take back what the record at `offset`, which ran alone here, was charged with; `suspects` in the shared mode."""
    arguments = (format_entry_id(offset), "" if suspects is None else "1")
    if await lane.run(_REFUND, (meta, meta if suspects is None else suspects), arguments):
        logger.warning("%s: this process was taken for dead while it ran a record alone; that is not charged", cursor)

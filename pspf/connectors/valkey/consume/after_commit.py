"""Work after a commit that has taken effect: nothing here may make it look failed."""

from typing import TYPE_CHECKING

from pspf.connectors.valkey.connection.blocking_reads import BlockingReads
from pspf.connectors.valkey.connection.wire import Lane
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger
from pspf.records import Commit, Cursor

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

logger = get_logger(__name__)


async def after_commit(
    core: "Core", lane: Lane, reads: BlockingReads, cursor: Cursor, commit: Commit, *, is_more_due: bool = False
) -> None:
    """Let the read that waits come back in time for a retry, or at once, and trim now and then."""
    try:
        due = [retry.due_ms for retry in commit.retries if retry.due_ms is not None]
        if due or is_more_due:
            await reads.look_in(0 if is_more_due else min(due) - core.clock.now_ms())
        await core.trimmer.trim_if_due(lane, cursor.topic, cursor.partition)
    except BackendUnavailable as error:
        logger.debug("%s: not trimmed: %s", cursor, error)

"""Lost streams: recovery after a stream, its group or PSPF's keys were deleted under the workers (DEL, FLUSHALL)."""

from typing import Final

from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.consume.cursor_keys import read_some
from pspf.connectors.valkey.consume.liveness import Member
from pspf.connectors.valkey.log.keys import CursorKeys
from pspf.loggers import get_logger

logger = get_logger(__name__)

_RESET: Final = load_script("reset")
_STEP: Final = 1_000


async def forget_cursor(member: Member, keys: CursorKeys, group: bytes) -> None:
    """Make the group of a cursor again, or forget its offset and state where its stream is gone.

    The first worker to see it says so: at ERROR where anything is forgotten or done again.

    A repair that was interrupted is finished by the next one.
    """
    lane = member.lane_for(keys.partition)
    waiting = (keys.due, keys.retry, keys.key(b"suspects"), keys.lent)
    fixed = (keys.partition.stream, keys.meta, *waiting, keys.spaces)
    while True:
        some = await read_some(lane, keys, _STEP)
        reply = await lane.run(_RESET, (*fixed, *some.names), (group, *some.namespaces))
        if reply == b"DONE" and member.may_tell_of(keys.registry_field.decode()):
            logger.error(
                "%s: %s was deleted, or its stream was; the group starts again, without offsets and state",
                lane.name,
                keys.registry_field.decode().replace("\0", "/"),
            )
        if reply == b"MADE" and member.may_tell_of(keys.registry_field.decode()):
            logger.error(
                "%s: the consumer group %r of %s was destroyed from outside; it is made again where it was",
                lane.name,
                group.decode(),
                keys.partition.stream.decode(),
            )
        if reply != b"STATE":
            return

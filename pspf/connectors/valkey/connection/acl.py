"""The least ACL that PSPF needs on a server, and a check of a user's permissions."""

from collections.abc import Sequence
from typing import Final

from pspf.connectors.valkey.connection.failures import NotPermitted
from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.connection.wire import Lane

_TABLE: Final = """
blpop client|id client|setname client|unblock del eval evalsha exists get hdel hexists hget hgetall hincrby hkeys hlen
hmget hscan hset hsetnx info lpop pexpire pexpireat pexpiretime ping rename rpush sadd scard select set smembers
srandmember srem sscan time type unlink xack xadd xclaim xdel xgroup|create xgroup|delconsumer xgroup|destroy
xgroup|setid xinfo|consumers xinfo|groups xinfo|stream xlen xpending xrange xread xreadgroup xrevrange xtrim zadd zcard
zcount zrange zrangebyscore zrem zremrangebyscore zrevrange zrevrangebyscore zscore
"""
COMMANDS: Final = tuple(_TABLE.split())
"""Every command that PSPF can't do without; tests hold it against the scripts and against a server."""

OPERATORS: Final = frozenset({"rename", "sscan", "xgroup|destroy"})
"""What of it only operators send: `topics repartition`, `state`, `groups delete`."""

OPTIONAL: Final = ("memory|usage",)
"""What is asked where it is permitted, for the size of topics."""

_PERMITTED: Final = load_script("permitted")
_SHOWN: Final = 8


def least_acl(user: str) -> str:
    """Return the command that makes a user who may do what PSPF needs, and nothing else; `PASSWORD` is to be replaced.

    Topics are streams of their own names: who names them all can narrow `~*` to `~pspf:*` and theirs.
    """
    allowed = " ".join(f"+{command}" for command in (*COMMANDS, *OPTIONAL))
    return f"ACL SETUSER {user} on >PASSWORD resetkeys ~* resetchannels -@all {allowed}"


async def find_missing(lane: Lane, commands: Sequence[str] = COMMANDS) -> list[str]:
    """Return the commands that the user may not send.

    Raises:
        NotPermitted: It may not even run scripts.
    """
    return [raw.decode() for raw in await lane.run(_PERMITTED, (), commands)]


async def refuse_unpermitted(lane: Lane) -> None:
    """Raise NotPermitted where the user may not send all that a worker needs: before any of its work is half done."""
    missing = await find_missing(lane, [command for command in COMMANDS if command not in OPERATORS])
    if missing:
        message = f"{lane.name}: the user may not: {name_commands(missing)}"
        raise NotPermitted(f"{message}\n  pspf broker doctor prints the ACL that it needs") from PermissionError(
            message
        )


def name_commands(commands: Sequence[str]) -> str:
    """Return commands as a list for people."""
    more = f" and {len(commands) - _SHOWN} more" if len(commands) > _SHOWN else ""
    return ", ".join(command.replace("|", " ") for command in commands[:_SHOWN]) + more

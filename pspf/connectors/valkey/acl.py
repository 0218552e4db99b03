"""The least that PSPF needs of a server, as an ACL rule."""

from typing import Final

_TABLE: Final = """
blpop client|id client|setname client|unblock del discard eval evalsha exists get hdel hexists hget hgetall hincrby
hkeys hlen hmget hscan hset hsetnx info multi pexpire pexpireat pexpiretime ping rename sadd scard select set smembers
srandmember srem time type unlink xack xadd xclaim xdel xgroup|create xgroup|delconsumer xgroup|destroy xgroup|setid
xinfo|consumers xinfo|groups xinfo|stream xlen xpending xrange xread xreadgroup xrevrange xtrim zadd zcount zrange
zrangebyscore zrem zremrangebyscore zrevrange zrevrangebyscore zscore
"""
COMMANDS: Final = tuple(_TABLE.split())
"""Every command that PSPF can't do without; tests hold it against the scripts and against a server."""

OPTIONAL: Final = ("memory|usage",)
"""What is asked where it is permitted, for the size of topics."""


def least_acl(user: str) -> str:
    """Return the command that makes a user who may do what PSPF needs, and nothing else; `PASSWORD` is to be replaced.

    Topics are streams of their own names: who names them all can narrow `~*` to `~pspf:*` and theirs.
    """
    allowed = " ".join(f"+{command}" for command in (*COMMANDS, *OPTIONAL))
    return f"ACL SETUSER {user} on >PASSWORD resetkeys ~* resetchannels -@all {allowed}"

"""Checks of a server at the first connection: its version, eviction policy and persistence."""

import re
from typing import Final

from pspf.connectors.valkey.connection.failures import ReplyError
from pspf.connectors.valkey.connection.format import FORMAT, FORMAT_KEY
from pspf.connectors.valkey.connection.wire import Lane
from pspf.errors import BackendCorrupt, ConfigurationError, NotAvailable

OLDEST_REDIS: Final = (7, 0)
OLDEST_VALKEY: Final = (7, 2)


async def check_server(lane: Lane) -> list[str]:
    """Look at the server and its format, which may be older; return what a worker should be warned about.

    Raises:
        NotAvailable: It is too old, or part of a Cluster.
        ConfigurationError: It throws away what it holds when its memory is full.
        BackendCorrupt: What PSPF stored there is of a newer format.
    """
    info = parse_info(await lane.call("INFO"))
    refuse_unfit(lane.name, info)
    await _check_format(lane)
    policy = info.get("maxmemory_policy", "noeviction")
    warnings = []
    if policy.startswith("volatile"):
        warnings.append(
            f"maxmemory-policy {policy} ends leases and forgets event ids when its memory is full; set noeviction"
        )
    if (persistence := await _describe_loss(lane, info)) is not None:
        warnings.append(persistence)
    return warnings


def refuse_unfit(place: str, info: dict[str, str]) -> None:
    """Raise where a server can't hold the promise at all; errors as in `check_server`."""
    name, version = read_version(info)
    oldest = OLDEST_VALKEY if name == "Valkey" else OLDEST_REDIS
    if _numbers(version) < oldest:
        raise NotAvailable(f"{place} is {name} {version}; PSPF needs Redis 7.0 or Valkey 7.2, or newer")
    if info.get("redis_mode") == "cluster":
        raise NotAvailable(f"{place} is a node of a Cluster, which this version does not have")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise ConfigurationError(
            f"{place} has maxmemory-policy {policy}: it would throw away events and state when its memory is full;"
            " set it to noeviction"
        )


def parse_info(raw: bytes) -> dict[str, str]:
    """Return what INFO says, by name."""
    lines = (line.partition(":") for line in raw.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def read_version(info: dict[str, str]) -> tuple[str, str]:
    """Return (Valkey or Redis, version)."""
    if "valkey_version" in info:
        return "Valkey", info["valkey_version"]
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    return name, info.get("redis_version", "0")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


async def _check_format(lane: Lane) -> None:
    raw = await lane.call("GET", FORMAT_KEY)
    if raw is None:
        await lane.call("SET", FORMAT_KEY, FORMAT, "NX")
        return
    if not raw.isdigit():
        raise BackendCorrupt(f"{lane.name}: {FORMAT_KEY.decode()} is {raw!r:.40}, no number")
    if int(raw) > FORMAT:
        raise BackendCorrupt(
            f"{lane.name} holds format {int(raw)}, and this version of PSPF knows {FORMAT}: use a newer PSPF"
        )


async def _describe_loss(lane: Lane, info: dict[str, str]) -> str | None:
    """Return what would be lost with the server, None where it writes all commands to a file."""
    if info.get("aof_enabled") == "1":
        return None
    reply = (await lane.call_many([("CONFIG", "GET", "save")]))[0]
    if isinstance(reply, ReplyError):  # not everybody may ask
        return "its append-only file is off: what came after the last snapshot is lost with it; set appendonly yes"
    if len(reply) == 2 and reply[1]:
        return "it writes snapshots only: what came after the last one is lost with it; set appendonly yes"
    return "it keeps nothing on disk: all is lost when it stops; set appendonly yes"

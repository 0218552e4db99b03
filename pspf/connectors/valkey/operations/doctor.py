"""Diagnosis of a server: its version and size, and the checks of `pspf broker doctor`."""

import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pspf.connectors.contract.operations import BrokerInfo, Check, Status
from pspf.connectors.valkey.connection.acl import find_missing, least_acl, name_commands
from pspf.connectors.valkey.connection.checks import parse_info, read_version
from pspf.connectors.valkey.connection.failures import ReplyError
from pspf.connectors.valkey.connection.format import FORMAT_KEY
from pspf.connectors.valkey.log.core import Core
from pspf.connectors.valkey.operations.inspect import list_cursors, list_topics

IDLE_MS: Final = 14 * 24 * 3_600_000
"""A group that has committed nothing for so long, though there is something to do, is reported."""

_OTHER_DESCRIPTORS: Final = 64
"""What a worker process has open beside the connections that read: pipes, the log, leases, commits, handlers' own."""
_SKEW_MS: Final = 2_000
_LITTLE_MEMORY: Final = 0.9


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself: INFO, and the settings that may be asked for."""

    info: dict[str, str]
    settings: dict[str, str]

    def number(self, name: str) -> int:
        """Return a number of INFO, 0 where it says none."""
        found = self.info.get(name, "0")
        return int(found) if found.isdigit() else 0


async def read_server(core: Core) -> Server:
    """Ask a server what it is."""
    lane = core.commands
    info = parse_info(await lane.call("INFO"))
    settings: dict[str, str] = {}
    for reply in await lane.call_many(
        [("CONFIG", "GET", name) for name in ("appendfsync", "save", "maxmemory-policy", "dir")]
    ):
        if not isinstance(reply, ReplyError):  # not everybody may ask, and hosted servers have no CONFIG
            settings.update((key.decode(), value.decode()) for key, value in zip(reply[::2], reply[1::2], strict=True))
    return Server(info, settings)


async def read_info(core: Core) -> BrokerInfo:
    """Return what the broker is and holds."""
    server = await read_server(core)
    name, version = read_version(server.info)
    topics = await list_topics(core)
    raw_format = await core.commands.call("GET", FORMAT_KEY)
    lost, dropped = await _count_losses(core)
    details = {
        "role": server.info.get("role", "?"),
        "memory": check_memory(server).found,
        "eviction": server.info.get("maxmemory_policy", "?"),
        "clients": server.info.get("connected_clients", "?"),
    }
    return BrokerInfo(
        name.lower(),
        core.connector.name,
        f"{name} {version}",
        describe_persistence(server)[0],
        int(raw_format or 0),
        len(topics),
        sum(topic.records for topic in topics),
        server.number("used_memory") or None,
        lost,
        dropped,
        details,
    )


async def _count_losses(core: Core) -> tuple[int, int]:
    partitions = [keys for topic in await core.topics.list() for keys in topic.partitions]
    replies = await core.lanes.call_many([("HMGET", keys.meta, "lost", "dropped") for keys in partitions])
    counts = [core.commands.check(reply, "HMGET") for reply in replies]
    return sum(int(count[0] or 0) for count in counts), sum(int(count[1] or 0) for count in counts)


async def diagnose(core: Core) -> list[Check]:
    """Return the checks."""
    server = await read_server(core)
    name, version = read_version(server.info)
    checks = [
        Check("version", Status.OK, f"{name} {version}"),  # an older one was refused when it was opened
        check_eviction(server),
        check_persistence(server),
        check_memory(server),
        check_replication(server),
        await _check_clock(core),
        await _check_descriptors(core),
        *await _check_permissions(core),
        *await _check_groups(core),
    ]
    lost, _ = await _count_losses(core)
    if lost:
        found = f"{lost:,} records were trimmed before a group had finished them"
        checks.append(Check("lost records", Status.WARN, found, "leave --drop-unread out, or give groups more workers"))
    return checks


async def _check_descriptors(core: Core) -> Check:
    """Return whether a process that runs all handlers of a group could read all of its partitions."""
    cursors = Counter(info.cursor.group for info in await list_cursors(core, None, None))
    group, needed = max(cursors.items(), key=lambda each: each[1], default=("", 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    found = f"at most {needed} connections of a process ({group}), {limit} here" if needed else f"{limit} here"
    if hard != resource.RLIM_INFINITY and needed + _OTHER_DESCRIPTORS > hard:
        remedy = f"raise the hard limit of the workers (ulimit -n, LimitNOFILE=) to {needed + _OTHER_DESCRIPTORS}"
        return Check("descriptors", Status.WARN, f"{found}: some partitions are not read", remedy)
    return Check("descriptors", Status.OK, found)


def check_eviction(server: Server) -> Check:
    """Return whether the server would throw data away when its memory is full."""
    policy = server.info.get("maxmemory_policy", "noeviction")
    remedy = "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
    if policy.startswith("allkeys"):
        return Check("eviction", Status.FAIL, f"{policy}: events and state are thrown away when memory is full", remedy)
    if policy.startswith("volatile"):
        found = f"{policy}: leases and event ids are forgotten when memory is full"
        return Check("eviction", Status.WARN, found, remedy)
    return Check("eviction", Status.OK, policy)


def describe_persistence(server: Server) -> tuple[str, Status]:
    """Return what a server writes to disk, and how safe that is."""
    if server.info.get("aof_enabled") == "1":
        fsync = server.settings.get("appendfsync", "appendfsync unknown")
        if fsync == "always":
            return "append-only file, synced at each write: nothing that was acknowledged is lost", Status.OK
        if fsync == "no":
            return "append-only file, synced when the system likes: a power cut loses up to half a minute", Status.WARN
        return f"append-only file, {fsync}: a power cut loses up to 2 s, consistently per partition", Status.OK
    if server.settings.get("save") == "":
        return "none: all is lost when the server stops", Status.WARN
    return "snapshots only: what came after the last one is lost with the server", Status.WARN


def check_persistence(server: Server) -> Check:
    """Return what the server would lose."""
    found, status = describe_persistence(server)
    if server.info.get("aof_last_write_status", "ok") != "ok" or server.info.get("rdb_last_bgsave_status") == "err":
        return Check("persistence", Status.FAIL, "its last write to disk failed", "see its log; make space on its disk")
    remedy = "" if status is Status.OK else "CONFIG SET appendonly yes, and in its configuration file"
    return Check("persistence", status, found, remedy)


def check_memory(server: Server) -> Check:
    """Return whether there is room."""
    used, limit = server.number("used_memory"), server.number("maxmemory")
    found = f"{server.info.get('used_memory_human', '?')} used"
    if not limit:
        return Check("memory", Status.OK, f"{found}, no limit set")
    found += f" of {server.info.get('maxmemory_human', limit)}"
    if used > limit * _LITTLE_MEMORY:
        remedy = "give it more, or trim: pspf topics trim TOPIC --max-bytes N --execute"
        return Check("memory", Status.WARN, f"{found}: emits and commits wait when it is full", remedy)
    return Check("memory", Status.OK, found)


def check_replication(server: Server) -> Check:
    """Return whether this is a server that takes writes."""
    role, replicas = server.info.get("role", "master"), server.info.get("connected_slaves", "0")
    if role != "master":
        return Check("role", Status.FAIL, f"{role}: a replica takes no writes", "connect to its primary")
    found = "primary" if replicas == "0" else f"primary of {replicas}: a failover may undo the last commits"
    return Check("role", Status.OK, found)


async def _check_clock(core: Core) -> Check:
    before = time.time()
    seconds, micros = await core.commands.call("TIME")
    after = time.time()
    skew_ms = (int(seconds) + int(micros) / 1e6 - (before + after) / 2) * 1_000
    found = f"{abs(skew_ms):.0f} ms {'ahead of' if skew_ms > 0 else 'behind'} this machine's"
    if abs(skew_ms) > _SKEW_MS + (after - before) * 1_000:
        remedy = "keep both by NTP: @-1h and the times of events are the one's, due times and leases the other's"
        return Check("clock", Status.WARN, found, remedy)
    return Check("clock", Status.OK, found)


async def _check_permissions(core: Core) -> list[Check]:
    """Return whether the user may send all that PSPF needs, and how to make one who may nothing else."""
    user = core.connector.username or "default"
    line = least_acl("pspf" if user == "default" else user)
    missing = await find_missing(core.commands)
    if missing:
        return [Check("permissions", Status.FAIL, f"user {user} may not: {name_commands(missing)}", line)]
    return [
        Check("permissions", Status.OK, f"user {user} may do all that PSPF needs"),
        Check("least ACL", Status.OK, line),
    ]


async def _check_groups(core: Core) -> Sequence[Check]:
    seconds, _ = await core.commands.call("TIME")
    now_ms = core.clock.now_ms() if core.has_own_clock else int(seconds) * 1_000
    latest: dict[tuple[str, str], int] = {}
    unread: dict[tuple[str, str], int] = {}
    for info in await list_cursors(core, None, None):
        name = (info.cursor.group, info.cursor.topic)
        latest[name] = max(latest.get(name, 0), info.last_commit_ms or 0)
        unread[name] = unread.get(name, 0) + (1 if info.unread is None else info.unread)
    checks = []
    for (group, topic), last_ms in sorted(latest.items()):
        if unread[group, topic] and last_ms and now_ms - last_ms > IDLE_MS:
            days = (now_ms - last_ms) / 86_400_000
            found = f"{group} on {topic} has done nothing for {days:.0f} days, {unread[group, topic]:,} unread"
            remedy = (
                f"nothing that it has not read is trimmed; if it is gone: pspf groups delete {group} --topic {topic}"
            )
            checks.append(Check("idle group", Status.WARN, found, remedy))
    groups = len({group for group, _ in latest})
    return checks or [Check("groups", Status.OK, f"{groups}, none idle for 14 days with work to do")]

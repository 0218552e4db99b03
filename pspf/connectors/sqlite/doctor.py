"""Diagnosis of the embedded broker: its version and size, and the checks of `pspf broker doctor`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.contract.operations import BrokerInfo, Check, Status
from pspf.connectors.sqlite.counters import DROPPED, LOST, read_counter
from pspf.connectors.sqlite.engine.base import Engine
from pspf.connectors.sqlite.filesystem import FileSystem, find_filesystem
from pspf.connectors.sqlite.formats import FORMAT
from pspf.connectors.sqlite.seek import IsDead
from pspf.connectors.sqlite.storage import OLDEST_SQLITE, Storage
from pspf.connectors.sqlite.writers import STUCK_MS

IDLE_MS: Final = 14 * 24 * 3_600_000
"""A group that has committed nothing for so long, though there is something to do, is reported."""

_HUGE_WAL_BYTES: Final = 128 << 20
_LITTLE_SPACE_BYTES: Final = 1 << 30
_NO_SPACE_BYTES: Final = 64 << 20
_FULL_BYTES: Final = 1 << 20
_CLOCK_STEP_MS: Final = 60_000


def read_info(storage: Storage, limits: Limits) -> BrokerInfo:
    """Return what the broker is and holds."""
    row = storage.row(
        "SELECT (SELECT count(*) FROM topics WHERE topic <> ''), (SELECT coalesce(sum(records), 0) FROM partitions),"
        " (SELECT count(DISTINCT group_name) FROM cursors WHERE partition_id > 0), (SELECT count(*) FROM sessions)"
    )
    found_format = storage.row("SELECT value FROM meta WHERE name = 'format'")
    assert row is not None
    assert found_format is not None
    topics, records, groups, sessions = row
    details = {"groups": str(groups), "workers": str(sessions)}
    size_bytes: int | None = None
    if storage.path is not None:
        system = find_filesystem(storage.path)
        size_bytes = sum(_size(Path(f"{storage.path}{suffix}")) for suffix in ("", "-wal"))
        details["file"] = str(storage.path.resolve())
        details["file system"] = f"{system.kind} at {system.mount}"
        details["free"] = f"{shutil.disk_usage(storage.path.parent).free / (1 << 30):,.1f} GiB"
    persistence = "none: it ends with its process" if storage.path is None else f"WAL, synchronous={limits.synchronous}"
    return BrokerInfo(
        "memory" if storage.path is None else "sqlite",
        storage.name,
        f"SQLite {apsw.sqlitelibversion()}",
        persistence,
        found_format[0],
        topics,
        records,
        size_bytes,
        read_counter(storage, LOST),
        read_counter(storage, DROPPED),
        details,
    )


def diagnose(storage: Storage, engine: Engine, is_dead: IsDead) -> Iterator[Check]:
    """Yield the checks, one by one."""
    yield _check_version()
    integrity = _check_integrity(storage)
    yield integrity
    if integrity.status is Status.FAIL:
        return  # what the tables say is no evidence of anything
    if storage.path is not None:
        yield check_filesystem(find_filesystem(storage.path))
        yield _check_space(storage.path)
        yield _check_wal(storage.path)
        yield _check_lock(storage)
        yield _check_synchronous(engine.limits)
    yield _check_clock(storage, engine.clock)
    yield _check_workers(storage, engine, is_dead, _why_not_written(storage))
    yield from _check_groups(storage, engine.clock.now_ms())
    yield _check_lost(storage)


def _check_version() -> Check:
    version = f"SQLite {apsw.sqlitelibversion()} (apsw {apsw.apsw_version()}), format {FORMAT}"
    if apsw.SQLITE_VERSION_NUMBER < OLDEST_SQLITE:
        return Check("version", Status.FAIL, version, "install apsw 3.51.3 or newer: older ones can corrupt the file")
    return Check("version", Status.OK, version)


def _check_integrity(storage: Storage) -> Check:
    try:
        found = [str(row[0]) for row in storage.rows("PRAGMA quick_check(3)")]
    except apsw.CorruptError as error:  # so damaged that it can't be walked
        found = [str(error)]
    if found == ["ok"]:
        return Check("integrity", Status.OK, "quick_check found nothing")
    remedy = "stop all workers, keep a copy of the file, then: sqlite3 broken.db .recover | sqlite3 mended.db"
    return Check("integrity", Status.FAIL, "; ".join(" ".join(found).split("\n"))[:300], remedy)


def check_filesystem(system: FileSystem) -> Check:
    """Return whether a file system is fit for the broker's file."""
    found = f"{system.kind} at {system.mount}"
    if system.is_network:
        remedy = "move the file to a local disk: locks and shared memory fail between hosts, and records are lost"
        return Check("file system", Status.FAIL, found, remedy)
    if system.is_volatile:
        return Check("file system", Status.WARN, f"{found}, kept in memory", "a reboot loses it; move it to a disk")
    if system.is_foreign:
        remedy = "make sure that no other host opens the file, or move it to a local disk"
        return Check("file system", Status.WARN, f"{found}, shared with another system", remedy)
    return Check("file system", Status.OK, found)


def _check_space(path: Path) -> Check:
    usage = shutil.disk_usage(path.parent)
    found = f"{usage.free / (1 << 30):,.1f} GiB free of {usage.total / (1 << 30):,.1f}"
    trim = "pspf topics trim TOPIC --max-bytes N --execute"
    remedy = f"make space, or trim: {trim}"
    if usage.free < _NO_SPACE_BYTES:
        remedy = (
            "trimming needs room itself: free 64 MiB of this disk, or stop all that use the broker and move"
            f" {path.name} with its -wal to another disk (mv, then --backend); then trim: {trim}"
        )
        return Check("disk space", Status.FAIL, found, remedy)
    is_little = usage.free < _LITTLE_SPACE_BYTES and usage.free < usage.total // 10
    return Check("disk space", Status.WARN, found, remedy) if is_little else Check("disk space", Status.OK, found)


def _check_wal(path: Path) -> Check:
    size_bytes = _size(Path(f"{path}-wal"))
    found = f"{size_bytes / (1 << 20):,.1f} MiB not yet in the database"
    if size_bytes > _HUGE_WAL_BYTES:
        holders = ", ".join(map(str, find_openers(path))) or "unknown"
        remedy = f"a long reader keeps it: end other programs that have the file open (pids: {holders})"
        return Check("WAL", Status.WARN, found, remedy)
    return Check("WAL", Status.OK, found)


def _check_lock(storage: Storage) -> Check:
    assert storage.queue is not None
    holder = storage.queue.find_stuck() or storage.queue.watch_writer(STUCK_MS)
    if holder is None:
        return Check("writers' lock", Status.OK, "free")
    remedy = f"all writers wait for it: continue it (kill -CONT {holder.pid}, where it is stopped) or end it"
    return Check("writers' lock", Status.FAIL, f"kept by {holder}", remedy)


def _check_synchronous(limits: Limits) -> Check:
    if limits.synchronous == "FULL":
        return Check("synchronous", Status.OK, "FULL: a power cut loses nothing that was acknowledged")
    found = f"{limits.synchronous}: a power cut may undo the last commits, consistently"
    return Check("synchronous", Status.WARN, found, "set PSPF_SQLITE_SYNCHRONOUS=FULL, unless that is what you want")


def _check_clock(storage: Storage, clock: Clock) -> Check:
    row = storage.row(
        "SELECT max(coalesce((SELECT max(renewed_ms) FROM sessions), 0),"
        " coalesce((SELECT max(last_commit_ms) FROM cursors), 0))"
    )
    assert row is not None
    ahead_ms = int(row[0]) - clock.now_ms()
    if ahead_ms > _CLOCK_STEP_MS:
        found = f"the clock is {ahead_ms / 1000:,.0f} s behind times that were written before: it was set back"
        return Check(
            "clock", Status.WARN, found, "keep the clock by NTP; retries wait so much longer until it catches up"
        )
    return Check("clock", Status.OK, "not behind any time that was written")


def _why_not_written(storage: Storage) -> str | None:
    """Return why no process can store anything at the moment, as far as that can be seen."""
    if storage.path is None:
        return None
    if storage.find_obstacle() is not None:
        return "the writers' lock is kept"
    return "the disk is full" if shutil.disk_usage(storage.path.parent).free < _FULL_BYTES else None


def _check_workers(storage: Storage, engine: Engine, is_dead: IsDead, obstacle: str | None) -> Check:
    now_ms = engine.clock.now_ms()
    rows = storage.rows("SELECT session, pid, renewed_ms FROM sessions ORDER BY session")
    live = [row for row in rows if not is_dead(row[0])]
    silent = [row for row in live if now_ms - row[2] > engine.limits.lease_ms]
    found = f"{len(live)} live" + (
        f", {len(rows) - len(live)} ended without saying so" if len(rows) > len(live) else ""
    )
    if silent and obstacle is not None:
        found += f"; {len(silent)} can't renew their sessions, as {obstacle}"
        return Check("workers", Status.WARN, found, "they wait, and go on by themselves when that is mended")
    if silent:
        pids = ", ".join(str(row[1]) for row in silent[:5])
        remedy = "they hang or are stopped: look at these processes, or end them"
        return Check("workers", Status.WARN, f"{found}; silent for longer than a lease: pid {pids}", remedy)
    return Check("workers", Status.OK, found)


def _check_groups(storage: Storage, now_ms: int) -> Iterator[Check]:
    rows = storage.rows(
        "SELECT c.group_name, t.topic, max(coalesce(c.last_commit_ms, t.created_ms)),"
        " sum(max(0, p.next_offset - max(c.position, p.first_offset)))"
        " FROM cursors c JOIN partitions p USING (partition_id) JOIN topics t USING (topic_id)"
        " GROUP BY c.group_name, t.topic ORDER BY c.group_name, t.topic"
    )
    idle = [row for row in rows if row[3] and now_ms - row[2] > IDLE_MS]
    for group, topic, last_ms, unread in idle:
        found = f"{group} on {topic} has done nothing for {(now_ms - last_ms) / 86_400_000:.0f} days, {unread:,} unread"
        remedy = f"nothing that it has not read is trimmed; if it is gone: pspf groups delete {group} --topic {topic}"
        yield Check("idle group", Status.WARN, found, remedy)
    if not idle:
        yield Check("groups", Status.OK, f"{len({row[0] for row in rows})}, none idle for 14 days with work to do")


def _check_lost(storage: Storage) -> Check:
    lost = read_counter(storage, LOST)
    if lost:
        found = f"{lost:,} records were trimmed before a group had finished them (over the broker's life)"
        return Check("lost records", Status.WARN, found, "leave --drop-unread out, or give groups more workers")
    return Check("lost records", Status.OK, "none were trimmed before all groups had finished them")


def find_openers(path: Path) -> list[int]:
    """Return the processes of this machine that have the file open, as far as we may see them."""
    wanted = str(path.resolve())
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(entry) == wanted:
                found.add(int(entry.parts[2]))
        except OSError:
            continue  # it ended, or is another user's
    return sorted(found - {os.getpid()})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

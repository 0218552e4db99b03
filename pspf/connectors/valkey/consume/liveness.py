"""Liveness of sessions: each renews a key with a time to live beside every stream that it consumes.

The keys are renewed by a thread with a connection of its own, so that no handler can starve them,
and by PEXPIRE, which a server takes even when it is out of memory.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError, RedisError

from pspf import faults
from pspf.backoff import Backoff, Sparing
from pspf.concurrency.background import attempt, keep_running
from pspf.connectors.valkey.connection.connector import ValkeyConnector
from pspf.connectors.valkey.connection.scripts import Command, ScriptCall, load_script
from pspf.connectors.valkey.connection.wire import Lane
from pspf.connectors.valkey.consume.healing import Healing
from pspf.connectors.valkey.log.keys import PartitionKeys
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger

if TYPE_CHECKING:
    from pspf.connectors.valkey.log.core import Core

logger = get_logger(__name__)

_ENTER: Final = load_script("enter")
_LEAVE: Final = load_script("leave")
_NO_PRIMARY: Final = (ReadOnlyError, MasterDownError, BusyLoadingError)
_MOST_NAMED: Final = 8
_STOP_STEPS: Final = 100
_STOP_STEP_S: Final = 0.002


@dataclass(slots=True)
class _Seat:
    """What a session consumes of one partition."""

    keys: PartitionKeys
    cursors: set[tuple[str, str]] = field(default_factory=set)

    @property
    def entry(self) -> bytes:
        """The session's value in the partition's `sessions`."""
        return orjson.dumps(sorted(self.cursors))


class Member:
    """One session, as the consumers that belong to it see it. `lanes` are the connections of all their commits."""

    def __init__(self, core: "Core", session: str) -> None:
        self.session: Final = session
        self.renewed_ms: int | None = None
        """When, on the monotonic clock, its leases were renewed last; None before the first time."""
        self.lanes: Final = core.pool.open_lanes("commits")
        self.rejoin: Callable[[str, str, str | None], Awaitable[bool]] = _never_joined
        """Joins topic, group, handler again as it was done first, after all was flushed; False where it never was."""
        self.starts: dict[tuple[str, str, str | None], str] = {}
        """Where each (topic, group, handler) was to start that this session joined."""
        self._told: dict[str, Sparing] = {}
        self._core = core
        self._seats: dict[bytes, _Seat] = {}
        self._streams: dict[str, set[bytes]] = {}
        self._healings: dict[tuple[str, str], Healing] = {}

    def lane_for(self, keys: PartitionKeys) -> Lane:
        """Return the lane for commits to a partition."""
        return self.lanes.lane_for(keys.stream)

    def healing(self, topic: str, group: str) -> Healing:
        """Return what the consumers of a group share that make it again."""
        return self._healings.setdefault((topic, group), Healing())

    @property
    def seats(self) -> Sequence[_Seat]:
        return list(self._seats.values())

    def has_joined(self, topic: str, group: str, handler: str | None) -> bool:
        """Tell whether this session joined a group."""
        return (topic, group, handler) in self.starts

    def may_tell_of(self, group: str) -> bool:
        """Return whether to say now what became of a group: its partitions are deleted together, or again and again."""
        return self._told.setdefault(group, Sparing()).may_say()

    def join(self, keys: PartitionKeys, group: str, handler: str | None) -> None:
        """Consume a cursor of a partition; `ensure` makes it known."""
        self._seats.setdefault(keys.stream, _Seat(keys)).cursors.add((group, handler or ""))

    def keep_only(self, topic: str, partitions: Sequence[PartitionKeys]) -> None:
        """Renew nothing of a topic beside these partitions: it may have had others."""
        streams = {keys.stream for keys in partitions}
        for stream in self._streams.get(topic, set()) - streams:
            self._seats.pop(stream, None)
        self._streams[topic] = streams

    def resign(self, keys: PartitionKeys, group: str, handler: str | None) -> None:
        """Take back what `join` was called with; `ensure` makes it known."""
        self._seats.setdefault(keys.stream, _Seat(keys)).cursors.discard((group, handler or ""))

    async def ensure(self, keys: PartitionKeys) -> None:
        """Make the session's lease and its entry where they are missing: new, or taken for dead while it hung."""
        call = self.make_enter(keys)
        await self.lane_for(keys).run(call.script, call.keys, call.arguments)

    def make_enter(self, keys: PartitionKeys) -> ScriptCall:
        """Return the script that `ensure` runs."""
        seat = self._seats.setdefault(keys.stream, _Seat(keys))
        arguments = (self._core.now(), self._core.limits.lease_ms, self.session, seat.entry)
        return ScriptCall(_ENTER, (keys.live(self.session), keys.sessions), arguments)

    def make_leave(self) -> list[ScriptCall]:
        """Return the scripts that remove the session."""
        return [
            ScriptCall(_LEAVE, (seat.keys.live(self.session), seat.keys.sessions), (self.session,))
            for seat in self.seats
        ]


async def _never_joined(topic: str, group: str, handler: str | None) -> bool:
    return False


class Renewal:
    """Renews the leases of one broker object's sessions; a thread does, from the first session to `stop`.

    With a clock of the caller's there is no thread: the broker's tick renews.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._members: dict[str, Member] = {}
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._due_ms = 0
        core.add_tick(self._tick)

    def add(self, member: Member) -> None:
        """Renew a session's leases from now on.

        Raises:
            BackendUnavailable: There is no thread to be had for it now.
        """
        if self._thread is None and not self._core.has_own_clock:
            stop = threading.Event()
            thread = threading.Thread(target=self._run, args=(stop,), name="pspf leases", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                name = self._core.connector.name
                raise BackendUnavailable(
                    f"{name}: no session without a thread that renews its leases: {error}"
                ) from error
            self._stop, self._thread = stop, thread
        self._members[member.session] = member

    def remove(self, member: Member) -> None:
        self._members.pop(member.session, None)

    async def stop(self) -> None:
        """End the thread; one that waits for an answer ends by itself, a little later."""
        self._members.clear()
        thread, stop, self._thread, self._stop = self._thread, self._stop, None, None
        if thread is None or stop is None:
            return
        stop.set()
        for _ in range(_STOP_STEPS):
            if not thread.is_alive():
                return
            await asyncio.sleep(_STOP_STEP_S)

    def _seats(self) -> list[tuple[Member, _Seat]]:
        return [(member, seat) for member in list(self._members.values()) for seat in member.seats]

    async def _tick(self) -> None:
        now_ms = self._core.clock.monotonic_ms()
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._core.limits.renew_ms
        for member, seat in self._seats():
            await member.ensure(seat.keys)

    def _run(self, stop: threading.Event) -> None:
        keep_running(
            f"{self._core.connector.name}: the thread that renews leases",
            lambda: self._renew_until(stop),
            rest=stop.wait,
            is_over=stop.is_set,
            max_wait_ms=self._core.limits.renew_ms,
        )

    def _renew_until(self, stop: threading.Event) -> None:
        limits = self._core.limits
        links: dict[ValkeyConnector, Any] = {}
        is_told = False
        again = Backoff(max(10, limits.renew_ms // 4), max(10, limits.renew_ms // 2))
        wait_ms = limits.renew_ms
        server = self._core.connector
        try:  # before reads take what descriptors there are
            connection = server.make_blocking()
            connection.connect()
            links[server] = connection
        except (RedisError, OSError) as error:
            logger.debug("%s: no connection for leases yet: %s", server.name, error)
        while not stop.wait(wait_ms / 1000):
            try:
                by_server = self._by_server()
                for server, seats in by_server.items():
                    if server not in links:
                        links[server] = server.make_blocking()
                        self._enter(links[server], seats)
                    self._renew(links[server], seats, stop)
                self._note_renewed([each for seats in by_server.values() for each in seats])
                is_told, wait_ms = False, limits.renew_ms
                again.reset()
            except Exception as error:  # whatever it is: without renewals all leases end
                if isinstance(error, _NO_PRIMARY):
                    server.distrust()  # reads, which a replica answers, would not find it out
                is_told = is_told or self._tell(error)
                wait_ms = again.next_ms()
                _close(links)
        _close(links)

    def _tell(self, error: Exception) -> bool:
        """Say it, unless something else of this process was said just now; return whether it was."""
        trace = None if isinstance(error, RedisError | OSError) else error
        if not self._core.outage.may_say():
            return False
        name = self._core.connector.name
        logger.warning(
            "%s: leases can't be renewed, will try again: %s", name, repr(error) if trace else error, exc_info=trace
        )
        return True

    def _by_server(self) -> dict[ValkeyConnector, list[tuple[Member, _Seat]]]:
        """Return what is to be renewed on each server."""
        found: dict[ValkeyConnector, list[tuple[Member, _Seat]]] = {}
        for member, seat in self._seats():
            found.setdefault(self._core.pool.server_of(seat.keys.stream), []).append((member, seat))
        return found

    def _enter(self, connection: Any, seats: Sequence[tuple[Member, _Seat]]) -> None:
        """Show all sessions again on a new connection: the server behind it may have gone back in time."""
        first, *others = [member.make_enter(seat.keys) for member, seat in seats]
        _exchange(connection, [first.script.command_with_text(first.keys, first.arguments)])  # alone: it may fail
        _exchange(connection, [call.script.command(call.keys, call.arguments) for call in others])

    def _renew(self, connection: Any, seats: Sequence[tuple[Member, _Seat]], stop: threading.Event) -> None:
        faults.reach("renew")
        lease_ms = self._core.limits.lease_ms
        replies = _exchange(
            connection, [("PEXPIRE", seat.keys.live(member.session), lease_ms) for member, seat in seats]
        )
        ended = [
            (member, seat)
            for (member, seat), reply in zip(seats, replies, strict=True)
            if reply == 0 and member.session in self._members and not stop.is_set()
        ]
        if ended:  # it was taken for dead, or all was flushed: what it held may be another's by now
            sessions = ", ".join(sorted({member.session for member, _ in ended}))
            places = [seat.keys.stream.decode() for _, seat in ended]
            more = f" and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else ""
            logger.warning("the leases of %s had ended on %s%s", sessions, ", ".join(places[:_MOST_NAMED]), more)
        for member, seat in ended:
            call = member.make_enter(seat.keys)
            _exchange(connection, [call.script.command_with_text(call.keys, call.arguments)])

    def _note_renewed(self, seats: Sequence[tuple[Member, _Seat]]) -> None:
        now_ms = self._core.clock.monotonic_ms()
        for member, _ in seats:
            member.renewed_ms = now_ms


def _close(links: dict[ValkeyConnector, Any]) -> None:
    for connection in links.values():
        attempt("closing the connection of the leases", connection.disconnect)
    links.clear()


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [connection.read_response() for _ in commands]

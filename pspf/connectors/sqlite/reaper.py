"""The reaper: finds sessions whose process ended or stands still, and releases what they held."""

from collections.abc import Callable
from typing import Final

from pspf.clock import Clock
from pspf.connectors.contract.limits import Limits
from pspf.connectors.sqlite.endings import die, fall_silent, give_back
from pspf.connectors.sqlite.engine.base import MEMBERS, Engine
from pspf.connectors.sqlite.liveness import Liveness, Sign
from pspf.connectors.sqlite.membership import Renewal
from pspf.connectors.sqlite.silence import Silences
from pspf.connectors.sqlite.storage import Storage
from pspf.errors import BackendUnavailable
from pspf.loggers import get_logger

logger = get_logger(__name__)

_EVERY_MS: Final = 1_000

Ending = Callable[[Storage, str], None]


class Reaper:
    """Looks after the sessions of others, once a second."""

    def __init__(self, liveness: Liveness, renewal: Renewal, clock: Clock, limits: Limits, boot_id: str) -> None:
        self.every_ms = _EVERY_MS
        self._liveness = liveness
        self._renewal = renewal
        self._clock = clock
        self._boot_id = boot_id
        self._silences = Silences(limits.lease_ms, limits.renew_ms)
        self._is_failing = False

    def run(self, engine: Engine) -> None:
        try:
            self._look_after(engine)
        except BackendUnavailable as error:
            self._silences.forget()  # while the file can't be written to, silence proves nothing
            if not self._is_failing:
                logger.warning("%s: can't look after other sessions, will try again: %s", engine.storage.name, error)
            self._is_failing = True
        else:
            self._is_failing = False

    def _look_after(self, engine: Engine) -> None:
        rows = [
            row
            for row in engine.read_now(
                lambda storage: storage.rows("SELECT session, renewals, boot_id, renewed_ms FROM sessions")
            )
            if row[0] not in self._renewal.own
        ]
        self._silences.look({row[0]: row[1] for row in rows}, self._clock.monotonic_ms())
        if self._silences.has_to_ask and self._write(engine, _ask):
            self._silences.asked()
        for session, renewals, boot_id, renewed_ms in rows:
            ending = self._ending_of(session, boot_id, was_silent=renewed_ms == 0)
            if ending is not None and self._write(engine, _reap(engine, session, renewals, ending)):
                if ending is not fall_silent:
                    self._liveness.forget(session)
                engine.look_again()

    def _ending_of(self, session: str, boot_id: str, *, was_silent: bool) -> Ending | None:
        """Return how a session ended, None where it did not."""
        if boot_id != self._boot_id:
            return give_back
        sign = self._liveness.look(session)
        if sign is Sign.DEAD:
            return die
        if not self._silences.has_ended(session):
            return None
        if sign is Sign.UNKNOWN:
            return give_back
        # Its process exists. It keeps what it holds until another session could take it over.
        return fall_silent if self._renewal.own and not was_silent else None

    def _write(self, engine: Engine, job: Callable[[Storage], None]) -> bool:
        """Write, and return True; unless the write had to wait, as renewals had: then silences start again."""
        asked_ms = self._clock.monotonic_ms()

        def write(storage: Storage) -> bool:
            if self._clock.monotonic_ms() - asked_ms > _EVERY_MS:
                return False
            job(storage)
            return True

        is_done = engine.write_now(write)
        if not is_done:
            self._silences.forget()
        return is_done


def _ask(storage: Storage) -> None:
    """Write something, which takes the lock and room on the disk."""
    storage.run("INSERT OR REPLACE INTO meta VALUES ('asked', 1)")


def _reap(engine: Engine, session: str, renewals: int, ending: Ending) -> Callable[[Storage], None]:
    def reap(storage: Storage) -> None:
        row = storage.row("SELECT renewals FROM sessions WHERE session = ?", (session,))
        if row is None or row[0] != renewals:
            return  # another worker was first, or it works again
        ending(storage, session)
        engine.grown.update(
            row[0]
            for row in storage.rows(
                "SELECT partition_id FROM cursors c WHERE EXISTS"
                " (SELECT 1 FROM claims m WHERE m.cursor_id = c.cursor_id AND m.session IS NULL)"
            )
        )
        engine.grown.add(MEMBERS)

    return reap

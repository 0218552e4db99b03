"""Silence of other sessions: how long each has not renewed, seen by an observer that may have stood still itself."""

from dataclasses import dataclass
from typing import Final

_MOST_MS: Final = 2_000
"""What one look adds at most: an observer that stood still itself, or waited for a lock, has not heard the others."""


@dataclass(slots=True)
class _Heard:
    """A session: the number of its last renewal, and for how long there was no other."""

    renewals: int
    silent_ms: int = 0
    asked_ms: int | None = None
    """At which silence the file was found to be writable, so that the session could have renewed since."""


class Silences:
    """How long sessions have been silent, at most as long as the file could be written to."""

    def __init__(self, lease_ms: int, renew_ms: int) -> None:
        self._lease_ms = lease_ms
        self._renew_ms = renew_ms
        self._heard: dict[str, _Heard] = {}
        self._looked_ms: int | None = None

    def look(self, renewals: dict[str, int], now_ms: int) -> None:
        """Take in how often each session has renewed by now."""
        before_ms, self._looked_ms = self._looked_ms, now_ms
        passed_ms = 0 if before_ms is None else min(_MOST_MS, now_ms - before_ms)
        heard: dict[str, _Heard] = {}
        for session, number in renewals.items():
            known = self._heard.get(session)
            if known is None or known.renewals != number:
                heard[session] = _Heard(number)
            else:
                known.silent_ms += passed_ms
                heard[session] = known
        self._heard = heard

    @property
    def has_to_ask(self) -> bool:
        """Whether somebody is silent so long that it matters whether the file can be written to."""
        return any(self._is_to_ask(heard) for heard in self._heard.values())

    def asked(self) -> None:
        """Note that the file can be written to: who is silent could renew, and has a renewal's time to do it."""
        for heard in self._heard.values():
            if self._is_to_ask(heard):
                heard.asked_ms = heard.silent_ms

    def _is_to_ask(self, heard: _Heard) -> bool:
        return heard.asked_ms is None and heard.silent_ms >= self._lease_ms - self._renew_ms

    def forget(self) -> None:
        """Start all silences again: no session could write to the file."""
        self._heard = {}

    def has_ended(self, session: str) -> bool:
        """Return whether a session has been silent for longer than its lease."""
        heard = self._heard.get(session)
        if heard is None or heard.asked_ms is None:
            return False
        return heard.silent_ms > self._lease_ms and heard.silent_ms - heard.asked_ms >= self._renew_ms

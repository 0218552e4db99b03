"""Failures of an app under test: what handlers have raised, for the test to raise."""

from collections.abc import Sequence

from pspf.engine.batch_outcome import Failure
from pspf.errors import HandlerCrashed, RetryLater


class Failures:
    """Collects failures until one of them is raised. A `RetryLater` is none: it is meant."""

    def __init__(self) -> None:
        self._found: list[Failure] = []

    def note(self, failures: Sequence[Failure]) -> None:
        """Note the failures of a batch that is committed."""
        self._found += [each for each in failures if not isinstance(each.error, RetryLater)]

    def raise_first(self) -> None:
        """Raise the first failure, if there is one, and forget them all."""
        if not self._found:
            return
        first, others = self._found[0], len(self._found) - 1
        self._found.clear()
        fate = "it is a dead letter" if first.retry_ms is None else f"it is tried again in {first.retry_ms} ms"
        what = f"timer {first.timer!r} of {first.record.key!r}" if first.timer else first.record.id
        note = (
            f"raised for {first.record.topic} {what}, attempt {first.attempts}; {fate}"
            f"{f', and {others} more failed' if others else ''}. With StreamTester(..., raises=False) a test sees"
            " retries and dead letters instead"
        )
        if not isinstance(first.error, Exception):  # it would end more than the test
            raise HandlerCrashed(f"{type(first.error).__name__}: {first.text}; {note}") from first.error
        first.error.add_note(note)
        raise first.error

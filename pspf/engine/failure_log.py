"""Log of failures: the first of a kind with the user's frames, others in one line."""

import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from pspf.engine.batch_outcome import Failure
from pspf.errors import RetryLater
from pspf.loggers import get_logger
from pspf.records import Cursor, as_text
from pspf.subscription import Subscription

logger = get_logger("pspf.handlers")

_MAX_TEXT: Final = 200
_OWN: Final = str(Path(__file__).resolve().parent.parent)


def shorten(text: str) -> str:
    """Return text escaped, on one line, and cut, so that no key or error can forge a log."""
    escaped = text.encode("unicode_escape", "backslashreplace").decode("ascii")
    return escaped if len(escaped) <= _MAX_TEXT else f"{escaped[:_MAX_TEXT]}..."


def fields_of(cursor: Cursor) -> dict[str, object]:
    """Return the fields of a log line about a cursor."""
    fields = {"topic": cursor.topic, "partition": cursor.partition, "group": cursor.group}
    return fields if cursor.handler is None else {**fields, "handler": cursor.handler}


class FailureLog:
    """Tells what happened to the records of one cursor that failed."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._known: set[str] = set()

    def tell(self, failures: Sequence[Failure], lost: Collection[int]) -> None:
        """Log failures, once they are committed."""
        for failure in failures:
            if failure.record.offset not in lost:
                self._tell_one(failure)

    def _tell_one(self, failure: Failure) -> None:
        record, error = failure.record, failure.error
        kind, text = shorten(type(error).__name__), shorten(failure.text)
        most = self._subscription.retry.max_attempts
        what = f"timer {failure.timer!r} of {as_text(record.raw_key)!r}" if failure.timer else record.id
        where = f"{record.topic} {record.partition} {shorten(what)} in {self._subscription.name}"
        fields = {
            "topic": record.topic,
            "partition": record.partition,
            "id": record.id,
            "group": self._subscription.group,
            "handler": self._subscription.name,
            "attempt": failure.attempts,
            "error_type": kind,
            "error": text,
        }
        if kind not in self._known and not isinstance(error, RetryLater):  # that is meant: no place in the code to mend
            self._known.add(kind)
            frames = _user_frames(error)
            if frames:
                logger.error(
                    "%s: attempt %d/%d failed here:\n%s%s: %s",
                    where,
                    failure.attempts,
                    most,
                    frames,
                    kind,
                    text,
                    extra=fields,
                )
        if failure.retry_ms is not None:
            logger.warning(
                "%s: attempt %d/%d failed, next in %.1f s: %s: %s",
                where,
                failure.attempts,
                most,
                failure.retry_ms / 1000,
                kind,
                text,
                extra=fields | {"retry_ms": failure.retry_ms},
            )
        else:
            logger.error(
                "%s: dead after attempt %d/%d: %s: %s; see: pspf dlq inspect %s/%s",
                where,
                failure.attempts,
                most,
                kind,
                text,
                record.topic,
                record.id,
                extra=fields,
            )


def _user_frames(error: BaseException) -> str:
    """Return the traceback's frames that are not PSPF's own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OWN)]
    return "".join(traceback.format_list(frames))

"""Log of a worker: configures PSPF's loggers alone; the user's logging is left as it is."""

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from pspf.errors import ConfigurationError
from pspf.loggers import get_logger
from pspf.settings import hide_passwords

FORMATS: Final = ("rich", "plain", "json")
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_MAX_TEXT: Final = 32_000
# What could move a terminal's cursor, colour it, turn text around, or can't be encoded; newlines are dealt with apart.
_UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_INDENT: Final = "\n    "
_STANDARD: Final = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime"])
"""What every log record has; the rest are the fields that its line was given."""


def tame(text: str) -> str:
    """Return text with its control characters escaped and passwords of URLs hidden, cut where it is very long."""
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}... ({len(text) - _MAX_TEXT} characters more)"
    return _UNSAFE.sub(_escape, hide_passwords(text))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "backslashreplace").decode("ascii")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts`, `level`, `logger`, `message`, `pid`, and the fields of the line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": tame(record.getMessage()),
            "pid": record.process,
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = value if value is None or isinstance(value, int | float) else tame(str(value))
        if record.exc_info:
            line["exception"] = tame(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    """Text for people, the time in UTC. What is behind a line's end is indented: nothing can pass for a line."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return tame(super().format(record)).replace("\n", _INDENT)


def configure_logging(level: str, log_format: str) -> None:
    """Write PSPF's log lines to stderr; where the user's code gave our loggers a handler, do nothing.

    Raises:
        ConfigurationError: There is no such level or format.
    """
    logger = get_logger("pspf")
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigurationError(f"log level {level!r}: use {', '.join(LEVELS)}")
    if log_format not in FORMATS:
        raise ConfigurationError(f"log format {log_format!r}: use {', '.join(FORMATS)}")
    if logger.handlers:
        return
    logger.setLevel(number)
    logger.addHandler(_make_handler(log_format))
    # The root logger is the user's: with a handler of its own every line would come twice.
    logger.propagate = False


def _make_handler(log_format: str) -> logging.Handler:
    if log_format == "rich":
        # Deferred: rich costs a worker 60 ms that only a terminal needs.
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(
            console=Console(stderr=True), show_path=False, rich_tracebacks=False, markup=False
        )
        handler.setFormatter(_TextFormatter("%(message)s"))
        return handler
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    return handler


def make_talk(log_format: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what a worker says its progress with: in JSON each line is a log line too, whatever the level."""
    if log_format != "json":
        return say
    formatter = JsonFormatter()

    def talk(text: str) -> None:
        said = {"name": "pspf.worker", "levelno": logging.INFO, "levelname": "INFO", "msg": text}
        say(formatter.format(logging.makeLogRecord(said)))

    return talk

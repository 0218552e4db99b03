"""The log of a worker: PSPF's own loggers only; the user's logging is left alone."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Final

from pspf.errors import ConfigurationError

FORMATS: Final = ("rich", "plain", "json")
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _PlainFormatter(logging.Formatter):
    """`time pid level logger: message`, the time in UTC."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
        self.converter = time.gmtime


def configure_logging(level: str, log_format: str) -> None:
    """Write PSPF's log lines to stderr; where the user's code gave our loggers a handler, do nothing.

    Raises:
        ConfigurationError: There is no such level or format.
    """
    logger = logging.getLogger("pspf")
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigurationError(f"log level {level!r}: use DEBUG, INFO, WARNING, ERROR or CRITICAL")
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

        return RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False, markup=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _PlainFormatter())
    return handler


def show_prints_at_once() -> None:
    """Have a print of the app's show at once, also through a pipe, and never twice after a fork."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file in every worker

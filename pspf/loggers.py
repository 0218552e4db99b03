"""The loggers of PSPF: no logging configuration of the app disables them without a word."""

import logging


class _Logger(logging.Logger):
    """A logger that is never disabled; a level or a handler silences it.

    `logging.config.dictConfig` and `fileConfig` disable all existing loggers by default: an app that
    configures its own logging would silence the dead letters and errors of its worker.
    """

    @property  # it can not be set here, as it can in a plain logger
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def get_logger(name: str) -> logging.Logger:
    """Return the logger of this name."""
    logger = logging.getLogger(name)
    logger.__class__ = _Logger
    return logger

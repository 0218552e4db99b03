"""Hang-up of the terminal that this process was started on."""

import errno
import termios


def has_hung_up() -> bool:
    """Return whether standard error is a terminal that is gone; SIGHUP asks for no reload then."""
    try:
        termios.tcgetattr(2)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)  # ENOTTY: there never was one
    return False

"""Command-line arguments as `ps` and /proc show them: passwords of broker URLs are overwritten.

A worker's processes are forked and have its arguments, so it is done before. Who looks in the moment before sees them:
PSPF_BACKEND is the safer place.
"""

import sys
from pathlib import Path
from typing import Final

from pspf.settings import hide_password

_OPTION: Final = b"--backend"
_STARS: Final = "***"
_ARG_START: Final = 45
"""Where /proc/self/stat, behind the name, has the address of the arguments, and then that of their end."""


def hide_arguments() -> None:
    """Overwrite the secrets among the arguments; does nothing elsewhere than on Linux."""
    if sys.platform != "linux" or not any("@" in word for word in sys.argv):
        return
    try:
        given = Path("/proc/self/cmdline").read_bytes()
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # no /proc here, so no process reads them there
        return
    import ctypes  # start-up: 7 ms that few commands need

    hidden = hide_words(given)
    start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
    if hidden != given and start and end - start == len(given) and ctypes.string_at(start, len(given)) == given:
        ctypes.memmove(start, hidden, len(hidden))


def hide_words(given: bytes) -> bytes:
    """Return arguments, each with a NUL behind it, of the same length and without the passwords of `--backend`."""
    words = given.split(b"\0")
    for number, word in enumerate(words):
        if word.startswith(_OPTION + b"="):
            words[number] = _OPTION + b"=" + _hide(word[len(_OPTION) + 1 :])
        elif number and words[number - 1] == _OPTION:
            words[number] = _hide(word)
    return b"\0".join(words)


def _hide(url: bytes) -> bytes:
    """Return what may be shown of a URL, as long as it is."""
    text = url.decode("utf-8", "surrogateescape")
    shown = hide_password(text)
    if shown == text:
        return url
    rest = len(url) - len(shown.replace(_STARS, "", 1).encode("utf-8", "surrogateescape"))
    stretched = shown.replace(_STARS, "*" * max(0, rest), 1).encode("utf-8", "surrogateescape")
    return stretched[: len(url)].ljust(len(url), b"*")

"""Lua scripts, each in a file of its own whose head lists KEYS, ARGV and reply.

A script is sent by its hash; a server that does not know it (a restart, SCRIPT FLUSH) gets the text
once. `common.lua` stands before each of them.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, NamedTuple

Argument = bytes | str | int
Command = tuple[Argument, ...]

_FOLDER: Final = files("pspf.connectors.valkey") / "lua"
_FORGETS_S: Final = 10.0
"""A server that does not know a script so soon after it got the text keeps none."""
_TEXTS_S: Final = 60.0
"""How long such a server gets texts before hashes are tried again."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and its hash."""

    name: str
    text: str
    sha: str

    def command(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        """Return the command that runs it by its hash."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def command_with_text(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        """Return the command that runs it and makes it known."""
        return ("EVAL", self.text, len(keys), *keys, *arguments)


class ScriptCall(NamedTuple):
    """A script with what it is called on."""

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[Argument]


def load_script(name: str, *parts: str) -> Script:
    """Return the script in `lua/NAME.lua`, behind common.lua and the other `parts`."""
    text = "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", *parts, name))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class SentScripts:
    """The scripts that a server got with their texts, and whether it keeps them.

    A proxy or a server that keeps no script answers NOSCRIPT to each hash, so that each call costs two commands:
    it gets the texts alone for a minute, then hashes are tried again.
    """

    def __init__(self) -> None:
        self._sent_s: dict[str, float] = {}
        self._texts_until_s = 0.0

    def command(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
        """Return the command that runs a script on this server."""
        if self._texts_until_s and time.monotonic() < self._texts_until_s:
            return script.command_with_text(keys, arguments)
        return script.command(keys, arguments)

    def missed(self, script: Script) -> None:
        """Note that the server did not know a script, which it gets with its text now."""
        now_s = time.monotonic()
        if now_s - self._sent_s.get(script.sha, -math.inf) < _FORGETS_S:
            self._texts_until_s = now_s + _TEXTS_S
        self._sent_s[script.sha] = now_s

"""The Lua scripts, each in a file of its own whose head lists KEYS, ARGV and reply.

A script is sent by its hash; a server that does not know it (a restart, SCRIPT FLUSH) gets the text
once. `common.lua` stands before each of them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, NamedTuple

Argument = bytes | str | int
Command = tuple[Argument, ...]

_FOLDER: Final = files("pspf.connectors.valkey") / "lua"


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

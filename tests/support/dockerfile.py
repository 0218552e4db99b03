"""What a Dockerfile says, so that a test runs what is written there."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BREAK: Final = re.compile(r"\\\n\s*")
_FLAG: Final = re.compile(r"(--[a-z-]+=\S+)\s+")


@dataclass(frozen=True, slots=True)
class Stage:
    """The instructions of a stage, in order: (name, arguments)."""

    name: str
    instructions: tuple[tuple[str, str], ...]

    def last(self, name: str) -> str:
        """Return the arguments of the last instruction of a name."""
        return [arguments for each, arguments in self.instructions if each == name][-1]

    def command(self, name: str) -> list[str]:
        """Return an ENTRYPOINT, CMD or HEALTHCHECK in exec form, which no shell takes apart."""
        text = _FLAG.sub("", self.last(name))
        if name == "HEALTHCHECK":
            text = text.removeprefix("CMD").strip()
        words = json.loads(text)
        assert isinstance(words, list)
        return words

    def copied(self) -> list[str]:
        """Return what is copied from the build's context."""
        copies = [shlex.split(text) for name, text in self.instructions if name == "COPY" and "--from" not in text]
        return [source for words in copies for source in words[:-1]]


def read_stages(path: Path) -> list[Stage]:
    """Return the stages of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    stages: list[tuple[str, list[tuple[str, str]]]] = []
    for line in filter(str.strip, _BREAK.sub(" ", "\n".join(lines)).splitlines()):
        name, _, arguments = line.strip().partition(" ")
        if name == "FROM":
            stages.append((arguments.partition(" AS ")[2], []))
        elif stages:
            stages[-1][1].append((name, arguments.strip()))
    return [Stage(name, tuple(instructions)) for name, instructions in stages]

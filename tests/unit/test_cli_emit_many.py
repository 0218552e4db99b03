"""`pspf emit` of a file or a pipe whose reading fails: it ends with that error, and never waits for ever."""

import asyncio
import io
from pathlib import Path

import pytest

from pspf.cli.services.emit_many import Plan, Source, emit_lines
from pspf.cli.services.events import Recipe
from pspf.connectors.contract.limits import Limits
from pspf.errors import PSPFError


class Panic(BaseException):
    """What libraries in other languages raise."""


class Failing(io.RawIOBase):
    """A pipe that gives one line, and fails at the next."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._lines = [b'{"n": 1}\n']
        self._error = error

    def read(self, size: int = -1) -> bytes:
        if self._lines:
            return self._lines.pop()
        raise self._error


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (OSError(5, "Input/output error"), PSPFError, "can't read a pipe any further: Input/output error"),
        (Panic("a mistake"), Panic, "a mistake"),
        (StopIteration("a mistake"), RuntimeError, "StopIteration"),
        (GeneratorExit("a mistake"), RuntimeError, "GeneratorExit"),
    ],
    ids=["system", "panic", "stop", "exit"],
)
async def test_an_emit_whose_reader_fails_ends_with_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException, expected: type[BaseException], said: str
) -> None:
    source = Source("a pipe", Failing(error), None)  # type: ignore[arg-type]  # it is a binary file in all but name
    plan = Plan("orders", Recipe(Limits()), rate=None, strict=False, as_json=False)
    with pytest.raises(expected, match=said):
        await asyncio.wait_for(emit_lines(f"sqlite:///{tmp_path / 'b.db'}", source, plan), 10)
    assert "1 emitted, 0 duplicates, 0 failed" in capsys.readouterr().out

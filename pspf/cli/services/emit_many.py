"""Bulk emit from a file or a pipe: in batches, at a rate, with counts of stored and bad lines."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pspf.cli.broker_session import open_broker
from pspf.cli.console import say, write, write_json
from pspf.cli.exit_codes import ExitCode, UsageError
from pspf.cli.services.events import Recipe, decode_line
from pspf.cli.services.lines import Line, read_lines
from pspf.cli.services.new_topics import describe_new
from pspf.concurrency.background import run_in_thread
from pspf.connectors.contract.broker import Broker
from pspf.errors import PSPFError
from pspf.records import NewRecord

BATCH: Final = 500
_MAX_REPORTED: Final = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a source; `rate` is events a second."""

    topic: str
    recipe: Recipe
    rate: float | None
    strict: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Source:
    """An open file or pipe; `size_bytes` where it is known."""

    name: str
    stream: BinaryIO
    size_bytes: int | None

    def read(self, size: int) -> bytes:
        """Return the bytes that are available, at least one, or none at the end.

        Raises:
            PSPFError: It can't be read any further.
        """
        try:
            return self.stream.read(size)
        except OSError as error:
            raise PSPFError(f"can't read {self.name} any further: {error.strerror or error}") from error


@contextlib.contextmanager
def open_source(argument: str) -> Iterator[Source]:
    """Open `@FILE`, or stdin for `-`.

    Raises:
        UsageError: The file can't be opened.
    """
    # Unbuffered: a buffer waits until it is full, and its lock can't be left held at the interpreter's exit.
    if argument == "-":
        yield Source("stdin", open(0, "rb", buffering=0, closefd=False), None)  # noqa: SIM115 - closes nothing
        return
    path = Path(argument[1:])
    try:
        stream = path.open("rb", buffering=0)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    with stream:
        yield Source(str(path), stream, path.stat().st_size if path.is_file() else None)


class _Tally:
    """Counts what became of the lines, and reports the first bad ones."""

    def __init__(self) -> None:
        self.emitted = 0
        self.duplicates = 0
        self.failed = 0

    def reject(self, number: int, reason: object) -> None:
        self.failed += 1
        if self.failed <= _MAX_REPORTED:
            say(f"line {number}: {reason}")
        elif self.failed == _MAX_REPORTED + 1:
            say("more bad lines follow; they are counted only")

    def print(self, as_json: bool) -> None:
        if as_json:
            write_json({"emitted": self.emitted, "duplicates": self.duplicates, "failed": self.failed})
        else:
            write(f"{self.emitted} emitted, {self.duplicates} duplicates, {self.failed} failed")


async def emit_lines(backend: str | None, source: Source, plan: Plan) -> ExitCode:
    """Emit each line of `source`; print the count, also when it ends early; return the exit code.

    With `strict` all lines are looked at before the first one is emitted.
    """
    tally = _Tally()
    if plan.strict:
        source = _check_all(source, plan.recipe, tally)
        if tally.failed:
            tally.print(plan.as_json)
            say(f"nothing emitted: --strict, and {tally.failed} of the lines of {source.name} are bad")
            return ExitCode.USAGE
    async with open_broker(backend, makes=True) as broker:
        notice = await describe_new(broker, plan.topic)
        try:
            with _progress(source) as advance:
                await _emit_all(broker, source, plan, tally, advance)
        finally:
            tally.print(plan.as_json)
            if notice is not None and tally.emitted:
                say(notice)
    return ExitCode.PARTLY_DONE if tally.failed else ExitCode.OK


async def _emit_all(broker: Broker, source: Source, plan: Plan, tally: _Tally, advance: Callable[[int], None]) -> None:
    # At a rate a batch is a tenth of a second's, so that the events come evenly.
    at_most = BATCH if plan.rate is None else max(1, min(BATCH, int(plan.rate / 10)))
    pace = _Pace(plan.rate)
    groups = read_lines(source.read, at_most=at_most)
    # In a daemon thread: a pipe may be silent for ever, and Ctrl-C must not wait for it.
    while (group := await run_in_thread(lambda: next(groups, None), "pspf-read")) is not None:
        records = _encode(group, plan.recipe, tally)
        if records:
            await pace.wait_for(len(records))
            await _append(broker, plan.topic, records, tally)
        advance(sum(len(line.text or b"") + 1 for line in group))


def _encode(lines: Sequence[Line], recipe: Recipe, tally: _Tally) -> list[NewRecord]:
    records = []
    for number, text in lines:
        if text is None:
            tally.reject(number, "longer than any event may be")
            continue
        try:
            records.append(recipe.make_record(decode_line(text)))
        except PSPFError as error:
            # A line has one line: only the column says something.
            tally.reject(number, str(error).replace("bad JSON at line 1, column", "bad JSON at column", 1))
    return records


async def _append(broker: Broker, topic: str, records: Sequence[NewRecord], tally: _Tally) -> None:
    appended = await broker.append(topic, records)
    duplicates = sum(place.duplicate for place in appended)
    tally.duplicates += duplicates
    tally.emitted += len(records) - duplicates


def _check_all(source: Source, recipe: Recipe, tally: _Tally) -> Source:
    """Encode every line, to no effect, and return the source at its beginning again."""
    if source.size_bytes is None:  # a pipe can be read once only
        kept = tempfile.SpooledTemporaryFile(max_size=64 << 20)  # noqa: SIM115 - closed with the process, after its second reading
        shutil.copyfileobj(source.stream, kept)
        kept.seek(0)
        source = Source(source.name, kept, None)  # type: ignore[arg-type]  # it is a binary file in all but name
    for group in read_lines(source.read, at_most=BATCH):
        _encode(group, recipe, tally)
    source.stream.seek(0)
    return source


class _Pace:
    """Keeps to a rate on the whole, whatever the single waits took."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._due: float | None = None

    async def wait_for(self, events: int) -> None:
        """Wait until `events` more may go."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._due = now if self._due is None else self._due
        await asyncio.sleep(max(0.0, self._due - now))
        self._due += events / self._rate


@contextlib.contextmanager
def _progress(source: Source) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's stderr while inside; give what moves it on, in bytes."""
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"emit {Path(source.name).name}", total=source.size_bytes)
        yield lambda size: progress.advance(task, size)

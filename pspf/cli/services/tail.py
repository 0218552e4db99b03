"""Reader of `pspf tail`: merges partitions by time, filters, and prints."""

import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from pspf.cli.console import flush, format_time, visible, write, write_json, write_json_line
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import TopicPosition
from pspf.cli.services.start_positions import CHUNK, find_offsets, order
from pspf.cli.services.where import Condition
from pspf.connectors.contract.broker import Broker
from pspf.errors import NotFound, SchemaError
from pspf.records import Record, as_text

_WAIT_MS: Final = 1_000
_DIRECTIVE: Final = re.compile(r"%(.?)", re.DOTALL)


class Printer(Protocol):
    """Prints records, and whatever ends them."""

    def show(self, record: Record) -> None:
        """Print one record."""
        ...

    def end(self) -> None:
        """Print the rest."""
        ...


@dataclass(frozen=True, slots=True)
class Tail:
    """What to read: from `place` on, at most `count` records that fit all `conditions`, of one partition or all."""

    topic: str
    place: TopicPosition
    count: int | None
    follow: bool
    partition: int | None
    conditions: Sequence[Condition]

    async def run(self, broker: Broker, printer: Printer) -> None:
        """Print until the end of the topic, or with `follow` for ever.

        Raises:
            NotFound: There is no such partition.
        """
        shown = 0
        try:
            async for record in self._read(broker):
                if shown == self.count:
                    break
                if self._fits(record):
                    printer.show(record)
                    shown += 1
                    if shown == self.count:
                        break
        finally:
            printer.end()

    def _fits(self, record: Record) -> bool:
        if not self.conditions:
            return True
        try:
            event = orjson.loads(record.value)
        except orjson.JSONDecodeError:
            return False
        return all(condition.matches(event) for condition in self.conditions)

    async def _read(self, broker: Broker) -> AsyncIterator[Record]:
        if self.count == 0:
            return
        offsets = dict(await find_offsets(broker, self.topic, self.place))
        if self.partition is not None:
            if self.partition not in offsets:
                raise NotFound(f"{self.topic} has no partition {self.partition}; it has 0 to {len(offsets) - 1}")
            offsets = {self.partition: offsets[self.partition]}
        while True:
            async for record in _merge(broker, self.topic, offsets):
                yield record
            if not self.follow:
                return
            flush()
            await broker.wait(self.topic, timeout_ms=_WAIT_MS)


async def _merge(broker: Broker, topic: str, offsets: dict[int, int]) -> AsyncIterator[Record]:
    """Yield the records of several partitions by time, up to their ends; moves `offsets` on."""
    heads: dict[int, list[Record]] = {}

    async def refill(partition: int) -> None:
        chunk = await broker.read(topic, partition, offset=offsets[partition], max_records=CHUNK)
        heads.pop(partition, None)
        if chunk:
            heads[partition] = list(reversed(chunk))  # the earliest is popped from the end

    for partition in offsets:
        await refill(partition)
    while heads:
        partition = min(heads, key=lambda p: order(heads[p][-1]))
        record = heads[partition].pop()
        offsets[partition] = record.offset + 1
        yield record
        if not heads[partition]:
            await refill(partition)


def as_json_record(record: Record) -> dict[str, Any]:
    """Return a record as `--jsonl` prints it; bytes that are no JSON come as `raw`, base64, with `event` null."""
    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "id": record.id,
        "key": as_text(record.raw_key),
        "timestamp_ms": record.timestamp_ms,
        "headers": _headers(record),
    }
    try:
        return {**shown, "event": orjson.loads(record.value)}
    except orjson.JSONDecodeError:
        return {**shown, "event": None, "raw": base64.b64encode(record.value).decode()}


def _headers(record: Record) -> Mapping[str, str]:
    try:
        return record.headers
    except SchemaError:  # put there by another program
        return {}


class _JsonLines:
    def show(self, record: Record) -> None:
        write_json_line(as_json_record(record))

    def end(self) -> None:
        flush()


class _JsonDocument:
    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def show(self, record: Record) -> None:
        self._records.append(as_json_record(record))

    def end(self) -> None:
        write_json({"records": self._records})


class _Text:
    def __init__(self, template: str) -> None:
        self._template = template

    def show(self, record: Record) -> None:
        write(_DIRECTIVE.sub(lambda match: _FIELDS[match[1]](record), self._template))

    def end(self) -> None:
        flush()


def _value_text(record: Record) -> str:
    return visible(as_text(record.value) or "")


_FIELDS: Final[dict[str, Callable[[Record], str]]] = {
    "i": lambda record: record.id,
    "p": lambda record: str(record.partition),
    "k": lambda record: visible(as_text(record.raw_key) or ""),
    "v": _value_text,
    "h": lambda record: orjson.dumps(dict(_headers(record))).decode(),
    "t": lambda record: format_time(record.timestamp_ms),
    "T": lambda record: record.topic,
    "%": lambda record: "%",
}


def make_printer(template: str | None, *, as_json: bool, as_json_lines: bool) -> Printer:
    """Return the printer for the output that was asked for.

    Raises:
        UsageError: The template has an unknown directive.
    """
    if as_json:
        return _JsonDocument()
    if as_json_lines:
        return _JsonLines()
    template = "%i  %t  %k  %v" if template is None else template
    for match in _DIRECTIVE.finditer(template):
        if match[1] not in _FIELDS:
            raise UsageError(
                f"--format: {match[0]!r} is no field; there are {' '.join('%' + name for name in _FIELDS)}"
            )
    return _Text(template)

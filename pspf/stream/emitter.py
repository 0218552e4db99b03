"""Emitter of a Stream: encodes events and appends them, and resolves unknown outcomes where that is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pspf.backoff import Backoff
from pspf.connectors.contract.broker import Broker
from pspf.context import current_call, describe_endless
from pspf.errors import BackendUnavailable, ConfigurationError, EmitUnknown
from pspf.events.encoding import encode, identify
from pspf.events.topic import DeclaredTopic, find_declared
from pspf.observability.telemetry import TelemetryManager
from pspf.records import Appended, NewRecord, encode_headers


class Emitter:
    """Appends events to topics; `default_topic` is where an event without a topic goes, `topics` are declared ones."""

    def __init__(self, telemetry: TelemetryManager, default_topic: str, topics: Mapping[str, DeclaredTopic]) -> None:
        self._telemetry = telemetry
        self._default_topic = default_topic
        self._topics = topics

    async def emit(
        self,
        events: Sequence[Any],
        topic: str | None,
        key: str | None,
        headers: Mapping[str, str] | None,
        connected: Callable[[], Awaitable[Broker]],
    ) -> Sequence[Appended]:
        """Store events at once, all or none; `connected` opens the broker, after the events are known to be good.

        Raises:
            ConfigurationError: A handler emits to its own topic without saying so.
            EventRejected: An event can't be stored (a ValueError).
            EmitUnknown: They may be stored or not.
            BackendUnavailable: They are not stored.
        """
        declared = find_declared(topic or self._default_topic, self._topics)
        to = str(topic or self._default_topic)
        call = current_call.get()
        if topic is None and call is not None and call.record is not None and call.record.topic == to:
            raise ConfigurationError(describe_endless(call.handler, to))
        spans = self._telemetry.find_spans()
        if spans is None:
            records = _encode(events, key, headers, declared)
            return await _append(await connected(), records, to)
        with spans.sending(to, dict(headers) if headers else None, len(events)) as sending:
            records = _encode(events, key, sending.headers, declared)
            places = await _append(await connected(), records, to)
            sending.stored(places)
            return places


async def _append(broker: Broker, records: Sequence[NewRecord], topic: str) -> Sequence[Appended]:
    try:
        return await broker.append(topic, records)
    except EmitUnknown as error:
        if not broker.capabilities.dedup or any(record.event_id is None for record in records):
            raise  # without an id of the caller's, or a broker that knows it again, a second copy could be stored
        return await _append_again(broker, records, topic, error)


async def _append_again(
    broker: Broker, records: Sequence[NewRecord], topic: str, unknown: EmitUnknown
) -> Sequence[Appended]:
    """Append until it is known that the records are stored; `unknown` has the ids that are known so far."""
    backoff = Backoff(max_ms=1_000)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + broker.limits.emit_timeout_ms / 1000
    while loop.time() < deadline:
        await asyncio.sleep(backoff.next_ms() / 1000)
        with suppress(EmitUnknown, BackendUnavailable):
            return await broker.append(topic, records)
    raise unknown


def _encode(
    events: Sequence[Any], key: str | None, headers: Mapping[str, str] | None, declared: DeclaredTopic | None
) -> list[NewRecord]:
    """Return the records of events that are emitted at once; past a handler's commit with an id of ours."""
    records = _encode_plainly(events, key, headers)
    if declared is None:
        return records
    has_key = key is not None
    return [declared.finish(event, record, has_key=has_key) for event, record in zip(events, records, strict=True)]


def _encode_plainly(events: Sequence[Any], key: str | None, headers: Mapping[str, str] | None) -> list[NewRecord]:
    call = current_call.get()
    if key is None and not headers and call is None:
        return list(map(encode, events))
    raw_headers = encode_headers(headers)
    if call is not None:
        events = [identify(event, call.next_id()) for event in events]
    return [encode(event, key=key, raw_headers=raw_headers) for event in events]

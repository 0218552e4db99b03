"""A debounce by the wall clock, a toy operator: a key's last event goes out when none came for so long."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pspf.engine.batch_outcome import BatchRun
from pspf.engine.operators.operator import Operator
from pspf.engine.operators.places import Item
from pspf.engine.operators.registry import OperatorKind, register
from pspf.records import EntryChanges, NewRecord, make_namespace
from pspf.windowing.event_time import Key, decode_key, encode_key
from pspf.windowing.operator_definition import OperatorDefinition
from pspf.windowing.spans import NEVER

NAMESPACE: Final = make_namespace(kind=100, slot=0)  # a kind that is free for operators from outside


@dataclass(frozen=True, slots=True)
class Debounce(OperatorDefinition):
    quiet_ms: int
    to: str = "settled"
    kind: str = "debounce"


class Debouncer(Operator):
    async def restore(self, stored: Mapping[str, Any] | None) -> None:
        assert isinstance(self.context.definition, Debounce)
        self.definition = self.context.definition
        found = await self.context.entries.read_all(NAMESPACE)
        self.waiting: dict[Key, tuple[int, Any, int]] = {decode_key(key): orjson.loads(entry) for key, entry in found}
        self.changed: set[Key] = set()

    async def fold_one(self, item: Item, run: BatchRun) -> None:
        key, value = item[2], self.context.subscription.handler.function(item[1])
        due_ms = self.context.scope.clock.now_ms() + self.definition.quiet_ms
        self.waiting[key] = due_ms, value, 1 + (self.waiting[key][2] if key in self.waiting else 0)
        self.changed.add(key)

    def due_ms(self) -> int:
        return min((due_ms for due_ms, _, _ in self.waiting.values()), default=NEVER)

    async def on_due(self, now_ms: int, source: int, run: BatchRun) -> bool:
        for key in [key for key, (due_ms, _, _) in self.waiting.items() if due_ms <= now_ms]:
            if run.is_closed:
                return False
            _, value, count = self.waiting.pop(key)
            self.changed.add(key)
            result = orjson.dumps({"key": key, "value": value, "count": count, "at_ms": now_ms})
            run.send(source, self.definition.to or "", NewRecord(encode_key(key), result))
        return True

    def take_changes(self) -> EntryChanges:
        entries = {encode_key(k): orjson.dumps(self.waiting[k]) if k in self.waiting else None for k in self.changed}
        self.changed.clear()
        return EntryChanges((), {NAMESPACE: entries} if entries else {})


register("debounce", OperatorKind(Debouncer))

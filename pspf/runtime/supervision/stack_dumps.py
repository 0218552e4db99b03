"""Stack dumps of worker processes: asked for, collected for a moment, and logged or answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pspf.runtime.supervision.process import now_ms
from pspf.runtime.supervision.slot import ProcessSlot

_STACKS_MS: Final = 700
"""How long processes have to send their stacks."""

Tell = Callable[[dict[str, str]], None]
"""Receives the stacks by the names of the slots."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """A question to some processes: `tell` receives the answers at `due_ms`."""

    slots: Sequence[ProcessSlot]
    due_ms: int
    tell: Tell


class StackDumps:
    """Questions that are not answered yet."""

    def __init__(self) -> None:
        self._pending: list[_Question] = []

    @property
    def dues_ms(self) -> list[int]:
        """When answers are due; monotonic."""
        return [look.due_ms for look in self._pending]

    def begin(self, slots: Sequence[ProcessSlot], tell: Tell) -> None:
        """Ask processes for the stacks of their threads and coroutines; `tell` receives them soon."""
        for slot in slots:
            if slot.process is not None:
                slot.process.ask_where()
        self._pending.append(_Question(slots, now_ms() + _STACKS_MS, tell))

    def tell_due(self) -> None:
        """Answer the questions whose time is up."""
        due = [look for look in self._pending if now_ms() >= look.due_ms]
        self._pending = [look for look in self._pending if look not in due]
        for look in due:
            look.tell(
                {
                    str(slot): slot.process.stacks.decode(errors="replace") + slot.process.tasks
                    for slot in look.slots
                    if slot.process is not None
                }
            )

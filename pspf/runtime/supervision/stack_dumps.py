"""Stack dumps of worker processes: asked for, collected for a moment, and logged or answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pspf.runtime.supervision.process import now_ms
from pspf.runtime.supervision.slot import ProcessSlot

_STACKS_MS: Final = 700
"""How long the threads of a process have to say where they are."""

Tell = Callable[[dict[str, str]], None]
"""Gets the texts by the names of the slots."""


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """That some processes were asked: `tell` gets the answers at `due_ms`."""

    slots: Sequence[ProcessSlot]
    due_ms: int
    tell: Tell


class StackDumps:
    """Questions that are not answered yet."""

    def __init__(self) -> None:
        self._pending: list[_Look] = []

    @property
    def dues_ms(self) -> list[int]:
        """When there is something to tell; monotonic."""
        return [look.due_ms for look in self._pending]

    def begin(self, slots: Sequence[ProcessSlot], tell: Tell) -> None:
        """Ask processes where their threads and coroutines are; `tell` gets to know, soon."""
        for slot in slots:
            if slot.process is not None:
                slot.process.ask_where()
        self._pending.append(_Look(slots, now_ms() + _STACKS_MS, tell))

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

"""Status and counts of a supervisor's processes together."""

import time
from collections.abc import Sequence

from pspf.observability.worker_status import WorkerStatus
from pspf.runtime.status.totals import ProcessTotals, Tally
from pspf.runtime.supervision.slot import ProcessSlot, SlotState


def describe_slots(slots: Sequence[ProcessSlot], *, is_stopping: bool) -> WorkerStatus:
    """Return the status of a worker."""
    going = [slot for slot in slots if slot.state is not SlotState.ENDED]
    reasons = [reason for slot in going if (reason := slot.why_not_ready) is not None]
    wall_ms = time.time_ns() // 1_000_000
    return WorkerStatus(
        state="draining" if is_stopping else "running",
        ready=not reasons and not is_stopping,
        why=tuple(reasons),
        processes=tuple(slot.describe(wall_ms) for slot in going),
    )


def add_up(slots: Sequence[ProcessSlot], process_totals: ProcessTotals) -> Tally:
    """Return what the processes of these slots did, and those before them, of which `process_totals` knows."""
    pulses = (slot.process.pulse for slot in slots if slot.process is not None)
    restarts: dict[tuple[str, str], int] = {}
    for slot in slots:
        key = (slot.spec.topic, slot.spec.group)
        restarts[key] = restarts.get(key, 0) + slot.restarts.total
    return Tally(
        process_totals.add_up(pulse for pulse in pulses if pulse is not None),
        tuple((*key, count) for key, count in restarts.items()),
    )

"""Status and counts of a supervisor's processes together."""

import time
from collections.abc import Sequence

from pspf.observability.worker_status import WorkerStatus
from pspf.runtime.status.totals import ProcessTotals, Tally
from pspf.runtime.supervision.slot import ProcessSlot, SlotState


def describe_places(places: Sequence[ProcessSlot], *, is_stopping: bool) -> WorkerStatus:
    """Return the status of a worker."""
    going = [place for place in places if place.state is not SlotState.ENDED]
    reasons = [reason for place in going if (reason := place.why_not_ready) is not None]
    wall_ms = time.time_ns() // 1_000_000
    return WorkerStatus(
        state="draining" if is_stopping else "running",
        ready=not reasons and not is_stopping,
        why=tuple(reasons),
        processes=tuple(place.describe(wall_ms) for place in going),
    )


def add_up(places: Sequence[ProcessSlot], ledger: ProcessTotals) -> Tally:
    """Return what the processes of these places did, and those before them, of which the ledger knows."""
    pulses = (place.process.pulse for place in places if place.process is not None)
    restarts: dict[tuple[str, str], int] = {}
    for place in places:
        key = (place.spec.topic, place.spec.group)
        restarts[key] = restarts.get(key, 0) + place.restarts.total
    return Tally(
        ledger.add_up(pulse for pulse in pulses if pulse is not None),
        tuple((*key, count) for key, count in restarts.items()),
    )

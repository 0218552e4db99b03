"""The capabilities of a broker: what it can do beyond storing topics, polling and committing."""

from dataclasses import dataclass, fields
from typing import Final

from pspf.errors import NotAvailable


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker claims. Reading it opens nothing; it is asked once, before an app starts.

    What a broker does not claim, its methods refuse with `NotAvailable`.
    """

    shared: bool
    """The shared mode: all workers of a group take records of all partitions."""
    ordered: bool
    """The ordered mode: a partition has one owner at a time."""
    leases: bool
    """Partitions are leases that the sessions of a group divide among themselves. Else it assigns them by itself."""
    retries: bool
    """A record that failed is due again at a time of its own."""
    joint_commits: bool
    """One commit moves several ordered cursors, of different topics: what a handler of several topics needs."""
    entries: bool
    """A cursor of the ordered mode keeps state and windows, in the same commit as its position."""
    crash_counts: bool
    """Records that ended the process that handled them are counted, and run alone."""
    dedup: bool
    """An event id is stored once within the de-duplication window."""
    pending: bool
    """Records that are not done can be listed, made due and dropped."""
    seek: bool
    """Cursors can be moved, renamed and deleted."""
    replay: bool
    """A dead letter can go back to the cursor that gave it up."""
    trim: bool
    """Records and topics can be removed, and old records are."""
    repartition: bool
    """A topic can be copied into another number of partitions."""
    roster: bool
    """Workers can be listed and sent commands."""
    multi_process: bool
    """Other processes can open the same broker."""

    def has(self, name: str) -> bool:
        """Return whether a capability, by its name, is claimed."""
        return bool(getattr(self, name))


_SHOWN: Final = {
    "shared": "shared mode",
    "ordered": "ordered mode",
    "joint_commits": "several topics in one handler",
    "entries": "state and windows",
    "crash_counts": "crash counts",
    "dedup": "de-duplication",
    "pending": "pending records",
    "replay": "replay of dead letters",
    "roster": "workers",
    "multi_process": "several processes",
}
"""How people read a capability; the others as they are called."""


def describe(name: str) -> str:
    """Return a capability in words."""
    return _SHOWN.get(name, name)


def describe_all(can: Capabilities) -> dict[str, str]:
    """Return what a broker can do, and what it lacks where that is something, as lines for people."""
    names = [each.name for each in fields(can) if each.name != "leases"]
    lacks = [describe(name) for name in names if not can.has(name)]
    return {
        "partitions": "divided by leases among the workers" if can.leases else "assigned by the broker",
        "can": ", ".join(describe(name) for name in names if can.has(name)),
        **({"lacks": ", ".join(lacks)} if lacks else {}),
    }


def lacking(name: str) -> NotAvailable:
    """Return the error of a method that belongs to a capability which the broker does not claim."""
    return NotAvailable(f"this broker lacks {describe(name)}: `pspf broker info` shows what it can do")

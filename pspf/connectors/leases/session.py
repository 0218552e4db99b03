"""The session of a broker whose ordered cursors are leases."""

from collections.abc import Callable

from pspf.connectors.contract.assigned import AssignedCursors
from pspf.connectors.contract.membership import Session
from pspf.connectors.leases.balance import LeaseBalance
from pspf.connectors.leases.leases import Leases


class LeasedSession(Leases, Session):
    """A session that divides ordered cursors with the other members by leases."""

    def assigned(
        self, topic: str, group: str, handler: str, partitions: int, on_unread: Callable[[tuple[int, ...]], None]
    ) -> AssignedCursors:
        return LeaseBalance(self, topic, group, handler, partitions, on_unread)

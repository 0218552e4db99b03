"""A handler of several topics on the contract: its cursors, taken together."""

from typing import Final, NamedTuple

from pspf.connectors.contract.broker import Broker
from pspf.connectors.contract.cursors import Consumer
from pspf.connectors.contract.membership import Session
from pspf.records import Cursor
from tests.support.workers import GROUP, HANDLER, TOPIC, acquire

OTHER: Final = "payments"
HOME: Final = Cursor(TOPIC, GROUP, HANDLER, 0)
BESIDE: Final = Cursor(OTHER, GROUP, HANDLER, 0)


class Pair(NamedTuple):
    """One session and the consumers of its two cursors."""

    session: Session
    home: Consumer
    beside: Consumer


async def own_both(broker: Broker) -> Pair:
    """Take both cursors with a session of their own; fail where the first is not free."""
    session = await broker.open_session()
    for cursor in (HOME, BESIDE):
        await session.register(cursor.topic, cursor.group, cursor.handler)
    home = await acquire(session, HOME)
    assert home is not None, "the cursor is another session's"
    beside = await session.take_beside(home, BESIDE)
    assert beside is not None
    return Pair(session, home, beside)

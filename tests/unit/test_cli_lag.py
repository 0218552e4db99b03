"""Which groups are over a limit of lag."""

from pspf.cli.services.lag import over
from pspf.connectors.contract.values import CursorInfo
from pspf.connectors.views import GroupView
from pspf.records import Cursor


def group(*unread: int | None) -> GroupView:
    """Return a group whose partitions have so many records to read; None: their broker can't tell."""
    cursors = [
        CursorInfo(Cursor("orders", "billing", "app.total", number), None, None, count, 0, 0, 0)
        for number, count in enumerate(unread)
    ]
    return GroupView("billing", "orders", "app.total", cursors, ())


def test_a_group_whose_lag_is_above_the_limit_is_over_it() -> None:
    assert [over([group(*unread)], 3) != [] for unread in ((3,), (4,), (2, 2), ())] == [False, True, True, False]


def test_a_group_whose_lag_is_not_known_is_over_any_limit() -> None:
    assert over([group(None)], 1_000_000) != []
    assert over([group(0, None)], 0) != []

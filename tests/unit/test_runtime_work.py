"""In which order windows are finished."""

from collections.abc import Sequence

import pytest

from pspf.runtime.app.work import CursorName, OperatorCursors, order_operators


def chain(*hops: str) -> Sequence[OperatorCursors]:
    """Return operators of `from>to`, named after where they read."""
    return [
        OperatorCursors(CursorName(topic, "g", topic), to or None)
        for topic, _, to in (hop.partition(">") for hop in hops)
    ]


@pytest.mark.parametrize(
    ("hops", "others", "levels"),
    [
        ([], [], []),
        (["a>b", "c>d", "e>"], [], ["ace"]),
        (["b>c", "a>b", "c>"], [], ["a", "b", "c"]),
        (["a>x", "c>y"], ["x"], ["a", "c"]),
        (["c>y", "a>x"], ["x"], ["ca"]),
        (["b>x", "a>b", "c>"], ["x"], ["a", "b", "c"]),
        (["a>b", "b>a", "c>"], [], ["c", "a", "b"]),
        (["a>a", "b>"], [], ["ab"]),
    ],
    ids=[
        "no windows",
        "those that get nothing of each other together",
        "upstream first, wherever it is declared",
        "whoever is declared behind a handler that may emit anything comes later",
        "but not who is declared before it",
        "and what is known counts more",
        "a circle begins with the first",
        "one that feeds itself is no circle",
    ],
)
def test_windows_are_finished_from_upstream_to_downstream(
    hops: Sequence[str], others: Sequence[str], levels: Sequence[str]
) -> None:
    found = order_operators(chain(*hops), others)
    assert ["".join(cursor.topic for cursor in level) for level in found] == levels

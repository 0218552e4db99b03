"""How a worker's processes ended, as one exit code."""

from collections.abc import Sequence

import pytest

from pspf.runtime.status.exit_status import choose_code


@pytest.mark.parametrize(
    ("returncodes", "code"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 143], 143),
        ([130, 143], 130),
        ([9, 143], 9),
        ([9, 0], 9),
        ([143, 1], 1),
        ([130, -11, 130], 1),
        ([9, 3], 1),
    ],
    ids=[
        "nothing ran",
        "all is well",
        "one was stopped",
        "all were stopped",
        "a burst that was stopped is one that timed out",
        "a burst that timed out",
        "a crash beside a stop is a crash",
        "whatever ended it",
        "also beside a burst that timed out",
    ],
)
def test_the_worst_end_of_a_process_is_the_worker_s(returncodes: Sequence[int], code: int) -> None:
    assert choose_code(returncodes) == code

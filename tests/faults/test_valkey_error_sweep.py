"""No error that a server may answer is a hot loop, or fills the log: `tests.faults.sweep` says what is counted.

`PSPF_SWEEP_SECONDS` is for how long each error stands (3; of the first seconds the rate is the highest).
"""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from tests.faults.sweep import ERRORS, TEXTS, Cost, measure_all

SPAN_S = float(os.environ.get("PSPF_SWEEP_SECONDS", "3"))
MOST_PER_S = 20.0
LINES_EVERY_S = 10.0
CALM_S = 10.0
SHORT = {name for name in ERRORS if name.split(" ")[0] not in TEXTS} | {
    *TEXTS, "NOGROUP of reads", "LOADING of reads", "NOSCRIPT of hashes", "OOM of all but reads"
}  # fmt: skip
"""What is swept each time; all of them where more time is given."""


SWEPT = [name for name in ERRORS if SPAN_S > 3 or name in SHORT]
AT_ONCE = 7
"""Each has proxies and databases of its own, and most of its time is spent waiting."""


@pytest.mark.parametrize(
    "names",
    [SWEPT[first : first + AT_ONCE] for first in range(0, len(SWEPT), AT_ONCE)],
    ids=lambda names: f"{names[0]} to {names[-1]}",
)
async def test_errors_that_stand_cost_few_commands_and_log_lines(
    names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pspf")
    swept = await asyncio.gather(
        *(measure_all(tmp_path / name, ERRORS[name], ramp_s=0.0, span_s=SPAN_S) for name in names)
    )
    told = [f"{name}\n{cost}" for name, costs in zip(names, swept, strict=True) for cost in costs if not is_calm(cost)]
    assert not told, "\n".join(told)


def is_calm(cost: Cost) -> bool:
    """Return whether an error cost few commands and log lines."""
    most = MOST_PER_S * max(SPAN_S, CALM_S)  # at first all loops meet it at once
    return cost.commands.total() <= most and len(cost.lines) <= 1 + SPAN_S / LINES_EVERY_S

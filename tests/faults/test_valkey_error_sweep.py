"""No error that a server may answer is a hot loop, or fills the log: `tests.faults.sweep` says what is counted.

`PSPF_SWEEP_SECONDS` is for how long each error stands (3; of the first seconds the rate is the highest).
"""

import os
from pathlib import Path

import pytest

from tests.faults.sweep import ERRORS, TEXTS, measure_all

SPAN_S = float(os.environ.get("PSPF_SWEEP_SECONDS", "3"))
MOST_PER_S = 20.0
LINES_EVERY_S = 10.0
CALM_S = 10.0
SHORT = {name for name in ERRORS if name.split(" ")[0] not in TEXTS} | {
    *TEXTS, "NOGROUP of reads", "LOADING of reads", "NOSCRIPT of hashes", "OOM of all but reads"
}  # fmt: skip
"""What is swept each time; all of them where more time is given."""


@pytest.mark.parametrize("name", [name for name in ERRORS if SPAN_S > 3 or name in SHORT])
async def test_an_error_that_stands_costs_few_commands_and_log_lines(name: str, tmp_path: Path) -> None:
    costs = await measure_all(tmp_path, ERRORS[name], ramp_s=0.0, span_s=SPAN_S)
    told = "\n".join(map(str, costs))
    print(told)
    most = MOST_PER_S * max(SPAN_S, CALM_S)  # at first all loops meet it at once
    assert all(cost.commands.total() <= most for cost in costs), told
    assert all(len(cost.lines) <= 1 + SPAN_S / LINES_EVERY_S for cost in costs), told

"""What every test of the suite relies on."""

import gc
import os
import warnings
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

# Settings of the developer's shell must not decide what a test sees; the suite's own knobs stay.
_KNOBS = {
    "PSPF_CROWD_SECONDS",
    "PSPF_SWEEP_SECONDS",
    "PSPF_FAULT_RUNS",
    "PSPF_SEED",
    "PSPF_REDIS_SERVER",
    "PSPF_VALKEY_SERVER",
}
for _name in [name for name in os.environ if name.startswith(("PSPF_", "VALKEY_")) and name not in _KNOBS]:
    del os.environ[_name]
# Users have neither, and each hides what only they would see: prints that wait in a buffer, bytecode that is old.
for _name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(_name, None)

# The admin is a process more, for which tests of other things needn't pay; its own turn it on.
os.environ["PSPF_ADMIN"] = "off"

# No deadline: a shared machine's pauses are not a failure. The blob repeats a failure exactly.
hypothesis.settings.register_profile("pspf", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pspf")


def pytest_collection_finish() -> None:
    """Free what imports left behind, before it is taken for the first tests' own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say at the end, in one line, for want of what tests were skipped."""
    yield
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        missing = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"not every test was run, {sum(reasons.values())} were skipped: {missing}")

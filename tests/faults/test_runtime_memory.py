"""A process that the kernel ends because its group is out of memory: as any other kill."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, job
from tests.faults.runs import Place

LIMIT_BYTES = 400 << 20
GROUPS = (
    (
        Path("/sys/fs/cgroup/memory"),
        {"memory.limit_in_bytes": LIMIT_BYTES, "memory.memsw.limit_in_bytes": LIMIT_BYTES},
        "memory.oom_control",
    ),
    (Path("/sys/fs/cgroup"), {"memory.max": LIMIT_BYTES, "memory.swap.max": 0}, "memory.events"),
)
"""Where groups are made, what limits one, and where it tells of kills: version 1, and 2."""


@pytest.fixture
def group() -> Iterator[tuple[Path, Path]]:
    """A group of little memory: where pids are written to, and where kills are told."""
    for root, limits, events in GROUPS:
        folder = root / f"pspf-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / events).exists():
                for name, number in limits.items():
                    if (folder / name).exists():  # without swap there is nothing to limit of it
                        (folder / name).write_text(str(number))
                yield folder / "cgroup.procs", folder / events
                return
        finally:
            folder.rmdir()
    pytest.skip("no memory of a control group can be limited here")


async def test_a_process_that_is_out_of_memory_is_one_that_was_killed(
    tmp_path: Path, place: Place, group: tuple[Path, Path]
) -> None:
    procs, events = group
    jobs = [(n, f"key-{n % 5}") for n in range(40)]
    with Fleet(tmp_path, place) as fleet:
        await fleet.fill([job(n, key, **_greedy(tmp_path) if n == 17 else {}) for n, key in jobs])
        worker = fleet.start("one", prefix=("sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh"))
        worker.wait_for("was ended by SIGKILL; another one starts")
        assert "oom_kill 1" in events.read_text()
        await fleet.wait_for_lag()
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert worker.says("failed 0, dead 0")
        await fleet.check(jobs)


def _greedy(tmp_path: Path) -> dict[str, object]:
    return {"do": "take", "taken_bytes": 2 * LIMIT_BYTES, "mark": str(tmp_path / "mark")}

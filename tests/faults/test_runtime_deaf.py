"""A process that lives and hears nothing of its broker, which answers everybody else."""

import signal
from pathlib import Path

from tests.faults.fleet import Fleet, job
from tests.faults.runs import ServerPlace
from tests.faults.valkey import Site
from tests.process.commands import wait_until
from tests.support.proxy import Command, Loss


def of_a_process_at_work(command: Command) -> bool:
    """Tell what a process sends from what its supervisor does, which only cares for the roster."""
    return not any(b"{workers}" in part for part in command)


async def test_a_process_that_the_broker_does_not_answer_is_replaced_and_nothing_is_lost(
    site: Site, tmp_path: Path
) -> None:
    with Fleet(tmp_path, ServerPlace(site.server, database=site.database, proxy=site.proxy)) as fleet:
        await fleet.fill([job(1), job(2)])
        worker = fleet.start("one", PSPF_LOOP_STALL_MS="2000")
        await fleet.wait_for_lag()
        (before,) = worker.children()
        fault = site.proxy.lose(of_a_process_at_work, Loss.ANSWER, times=1_000_000)
        async with fleet.open() as broker:
            await broker.append("jobs", [job(3), job(4)])
        wait_until(
            lambda: worker.says("the broker has not answered it for"), within_s=60
        )  # a read's time-out comes first
        site.proxy.release(fault)
        worker.wait_for("another one starts")
        await fleet.wait_for_lag()
        wait_until(lambda: fleet.pspf("health", "ready").returncode == 0)
        assert worker.children() != [before]
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        await fleet.check([(n, "k") for n in (1, 2, 3, 4)])

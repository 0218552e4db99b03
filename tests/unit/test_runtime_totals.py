"""What a worker's processes did together, whoever of them still lives."""

from pspf.observability.telemetry import HandlerCounters
from pspf.runtime.status.reports import Pulse, SubscriptionStatus
from pspf.runtime.status.totals import ProcessTotals


def pulse(handler: str, processed: int) -> Pulse:
    status = SubscriptionStatus(HandlerCounters("orders", "g", handler, processed=processed), (0,))
    return Pulse("running", 0, 0, is_connected=True, is_at_work=True, session="s", subscriptions=(status,))


def processed(totals: ProcessTotals, *living: Pulse) -> dict[str, int]:
    return {each.handler: each.processed for each in totals.add_up(living)}


def test_living_processes_are_added_up() -> None:
    assert processed(ProcessTotals(), pulse("a", 3), pulse("b", 1), pulse("a", 4)) == {"a": 7, "b": 1}


def test_a_process_that_ended_takes_nothing_with_it() -> None:
    totals = ProcessTotals()
    totals.close(pulse("a", 3))
    assert processed(totals, pulse("a", 0)) == {"a": 3}
    assert processed(totals, pulse("a", 2)) == {"a": 5}


def test_asking_twice_counts_once() -> None:
    totals = ProcessTotals()
    totals.close(pulse("a", 3))
    assert processed(totals, pulse("a", 2)) == processed(totals, pulse("a", 2)) == {"a": 5}


def test_a_process_that_never_said_anything_did_nothing() -> None:
    totals = ProcessTotals()
    totals.close(None)
    assert totals.add_up(()) == ()

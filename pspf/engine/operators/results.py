"""Results of an operator, on their way into the commit; one that can't be made becomes a dead letter."""

from collections.abc import Callable, Sequence
from typing import Any

from pspf.clock import Clock
from pspf.context import HandlerScope
from pspf.engine.batch_outcome import BatchRun, Failure
from pspf.engine.handlers.executor import ends_run
from pspf.engine.operators.source import RecordSource
from pspf.errors import text_of
from pspf.events.topic import DeclaredTopic
from pspf.records import NewRecord, Record
from pspf.subscription import Subscription


class Results:
    """Emits results to any topic. `source` is the offset of the record that a result comes from."""

    def __init__(self, subscription: Subscription, around: HandlerScope, source: RecordSource, clock: Clock) -> None:
        self._retry = subscription.retry
        self._around = around
        self._source = source
        self._clock = clock

    def find_schema(self, topic: str | None) -> DeclaredTopic | None:
        """Return the declaration of a topic whose schema results have to fit; None without one."""
        found = None if topic is None else self._around.topics.get(topic)
        return found if found is not None and found.schema is not None else None

    def emit(
        self,
        topic: str,
        make: Callable[..., NewRecord | None],
        result: tuple[Any, ...],
        source: int,
        run: BatchRun,
        plain: Callable[..., NewRecord],
    ) -> None:
        """Emit what `make` returns of a result, unless that is None.

        Where it fails for good, what `plain` returns becomes a dead letter.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                record = make(*result)
                if record is None:
                    return
                self._around.check(record)
            except BaseException as error:  # the boundary of the result
                if ends_run(error, run):
                    raise
                if not self._retry.gives_up(error, attempts):
                    continue  # at once: what is due has no place to wait in
                self._bury(plain(*result), source, error, attempts, run)
                return
            run.send(source, topic, record)
            return

    def emit_all(self, topic: str, make: Callable[[], Sequence[NewRecord]], source: int, run: BatchRun) -> bool:
        """Emit several, at a third of the price of `emit`, where all is well with them and the batch has room."""
        try:
            records = make()
            self._around.check_all(records)
        except BaseException as error:  # which of them it is, `emit` finds out
            if ends_run(error, run):
                raise
            return False
        return run.send_all(source, topic, records)

    def _bury(self, plain: NewRecord, source: int, error: BaseException, attempts: int, run: BatchRun) -> None:
        now_ms = self._clock.now_ms()
        record = Record(self._source.topic, *self._source.place_of(source), plain.raw_key, plain.value, None, now_ms)
        run.bury(Failure(record, error, attempts, None, text_of(error), is_result=True))

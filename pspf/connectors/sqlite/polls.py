"""Reads and polls on the engine's thread: answered at once, parked, or turned into writes."""

from pspf.connectors.sqlite.engine.base import ANY_PARTITION, Engine, Nothing
from pspf.connectors.sqlite.requests import EngineRequest, Requests
from pspf.connectors.sqlite.wakeups import WakeUps
from pspf.errors import BackendUnavailable


class Polls:
    """Reads, and polls that wait for records."""

    def __init__(self, engine: Engine, requests: Requests, wakeups: WakeUps) -> None:
        self._engine = engine
        self._requests = requests
        self._wakeups = wakeups

    def sort(self, writes: list[EngineRequest], grown: set[int], is_any: bool) -> None:
        """Answer reads, park polls that find nothing; add requests that have to write to `writes`."""
        self.look_at_parked(writes, grown, is_any)
        while self._requests.new:
            request = self._requests.new.popleft()
            if request.poll is not None:
                self._look(request, writes)
            elif request.write is not None:
                writes.append(request)
            else:
                self._answer_read(request)

    def look_at_parked(self, writes: list[EngineRequest], grown: set[int], is_any: bool) -> None:
        """Look again for polls whose partition has grown or that are due; add those that have to write to `writes`."""
        if not self._requests.parked:
            return
        now_ms, wall_ms = self._engine.clock.monotonic_ms(), self._engine.clock.now_ms()
        parked, self._requests.parked = self._requests.parked, []
        try:
            for request in parked:
                self._look_if_due(request, writes, grown, is_any, now_ms, wall_ms)
        except BaseException:
            self._requests.parked = parked  # none is forgotten; an answered request takes no second answer
            raise

    def _look_if_due(
        self,
        request: EngineRequest,
        writes: list[EngineRequest],
        grown: set[int],
        is_any: bool,
        now_ms: int,
        wall_ms: int,
    ) -> None:
        poll = request.poll
        assert poll is not None
        if request.is_given_up or request.future.done():
            return
        is_due = request.due_ms is not None and request.due_ms <= wall_ms
        is_grown = bool(grown) if poll.partition_id == ANY_PARTITION else poll.partition_id in grown
        if is_grown and poll.is_eager():
            writes.append(request)
        elif is_any or is_due or is_grown or request.deadline_ms <= now_ms:
            self._look(request, writes)
        else:
            self._requests.parked.append(request)

    def _look(self, request: EngineRequest, writes: list[EngineRequest]) -> None:
        poll = request.poll
        assert poll is not None
        if request.is_given_up or request.future.done():
            return
        try:
            found = self._engine.read_now(poll.look)
        except BaseException as error:  # the boundary of one read: its caller gets the error
            self._answer_error(request, error)
            return
        if isinstance(found, Nothing):
            self.park(request, found)
        elif poll.take is None:
            self._requests.answer(request, found, None)
        else:
            writes.append(request)

    def park(self, request: EngineRequest, nothing: Nothing) -> None:
        """Let a poll wait that has found nothing, or answer it where its time is up."""
        if request.deadline_ms <= self._engine.clock.monotonic_ms():
            self._requests.answer(request, nothing, None)
            return
        request.due_ms, request.write = nothing.due_ms, None
        self._requests.parked.append(request)
        self._wakeups.listen()

    def _answer_read(self, request: EngineRequest) -> None:
        assert request.job is not None
        try:
            self._requests.answer(request, self._engine.read_now(request.job), None)
        except BaseException as error:  # the boundary of one read: its caller gets the error
            self._answer_error(request, error)

    def _answer_error(self, request: EngineRequest, error: BaseException) -> None:
        if not isinstance(error, Exception):  # the end of this thread, not of the caller's event loop
            self._requests.answer(
                request, None, BackendUnavailable(f"{self._engine.storage.name}: its thread has ended: {error!r}")
            )
            raise error
        self._requests.answer(request, None, error)

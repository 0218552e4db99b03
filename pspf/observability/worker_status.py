"""Status of a worker as other processes read it: the broker's roster, the admin and the command line.

    supervisor --WorkerStatus--> admin
        |
        +------ShownWorker-----> roster --> pspf workers, pspf top, pspf health

Every field has a default, and readers ignore fields that they do not know: a worker of an older or a newer version can
be read. These names are the stable ones of `pspf workers list --json` and `GET /status`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pspf.observability.fields import Fields

HANDLING: Final = "handling"
OVERDUE: Final = "goes on although it was cancelled"
WAITING: Final = "waits for another to run alone"
WAITING_ALONE: Final = "waits to run alone, as it may have ended the process before"
UNKNOWN: Final = "unknown"
IN_PROCESS: Final = "in-process#0"
"""The place of a worker that is one process, for all topics and groups."""


@dataclass(frozen=True, slots=True)
class BatchStatus(Fields):
    """A batch that a handler has had for `for_ms`, or that has waited for one so long; `ids` are its first records'."""

    topic: str = ""
    group: str = ""
    handler: str = ""
    partition: int = 0
    records: int = 0
    for_ms: int = 0
    state: str = HANDLING
    ids: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """(topic, group, handler)."""
        return self.topic, self.group, self.handler

    @property
    def is_waiting(self) -> bool:
        """Whether its turn has not come."""
        return self.state in (WAITING, WAITING_ALONE)

    @property
    def doing(self) -> str:
        """What its handler does, as the words before `a batch of ...`."""
        return "is at" if self.state == HANDLING else f"{self.state}, with"

    def __str__(self) -> str:
        where = f"a batch of {self.records} of {self.topic}, partition {self.partition}"
        first = f" from {self.ids[0]} on" if self.ids else ""
        return f"{self.handler} {self.doing} {where}{first}, for {self.for_ms / 1000:.0f} s"


@dataclass(frozen=True, slots=True)
class HandlerStatus(Fields):
    """What one handler of a process consumes, and what it did since the process started.

    `failed` counts runs, the others records; `rate` is events a second; `last_commit_ms` is the time of day, None
    before the first commit.
    """

    topic: str = ""
    group: str = ""
    handler: str = ""
    partitions: tuple[int, ...] = ()
    processed: int = 0
    failed: int = 0
    dead: int = 0
    rate: float = 0.0
    last_commit_ms: int | None = None
    topics: tuple[str, ...] = ()
    """All topics that it reads, `topic` first; of an older worker's nothing is known."""

    @property
    def key(self) -> tuple[str, str, str]:
        """(topic, group, handler)."""
        return self.topic, self.group, self.handler


@dataclass(frozen=True, slots=True)
class ProcessStatus(Fields):
    """One process of a worker, or the place of one that has ended.

    `place` is `topic/group#number`, `worker` the id of its session. `why` says why it does not do its work, and
    `next_try_ms` is the time of day at which another one starts.
    """

    place: str = ""
    pid: int | None = None
    worker: str | None = None
    state: str = UNKNOWN
    why: str | None = None
    restarts: int = 0
    crashes_in_a_row: int = 0
    last_exit: str | None = None
    next_try_ms: int | None = None
    busy: tuple[BatchStatus, ...] = ()
    waiting: tuple[BatchStatus, ...] = ()
    subscriptions: tuple[HandlerStatus, ...] = ()

    def may_run(self, topic: str, group: str) -> bool:
        """Return whether the place is for handlers of this topic and group."""
        return self.place == IN_PROCESS or self.place.rpartition("#")[0] == f"{topic}/{group}"

    @property
    def batches(self) -> tuple[BatchStatus, ...]:
        """Batches that handlers have, then those that wait for their turn."""
        return self.busy + self.waiting


@dataclass(frozen=True, slots=True)
class WorkerStatus(Fields):
    """A worker and its processes; `why` are the reasons for which it is not `ready`."""

    state: str = UNKNOWN
    ready: bool = False
    why: tuple[str, ...] = ()
    processes: tuple[ProcessStatus, ...] = ()


NOT_CONNECTED: Final = WorkerStatus("starting", why=("it waits for the broker",))
"""The status of a worker before it has processes."""


@dataclass(frozen=True, slots=True)
class ShownWorker(Fields):
    """A worker in the broker's roster: its identity, its status, and its answers to commands, by the command's id.

    As fields it is flat: those of the status stand beside its own.
    """

    worker: str = ""
    host: str | None = None
    pid: int | None = None
    app: str | None = None
    started_ms: int = 0
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    status: WorkerStatus = WorkerStatus()

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Return the worker of decoded fields. Errors as in `Fields`."""
        status = WorkerStatus.from_fields(fields)
        own = {name: value for name, value in fields.items() if name != "status"} if isinstance(fields, Mapping) else {}
        shown = super(ShownWorker, cls).from_fields(own)
        return cls(shown.worker, shown.host, shown.pid, shown.app, shown.started_ms, shown.answers, status)

    def as_fields(self) -> dict[str, Any]:
        """Return its own fields and those of its status."""
        own = super(ShownWorker, self).as_fields()
        del own["status"]
        return {**own, **self.status.as_fields()}

    def as_processes(self) -> list[dict[str, Any]]:
        """Return an object for each process, as `pspf workers list --json` prints it."""
        found = []
        for process in self.processes:
            rest = process.as_fields()
            del rest["worker"], rest["pid"], rest["state"]
            named = {"worker": self.name_of(process), "host": self.host, "pid": process.pid, "state": process.state}
            found.append({**named, "supervisor": self.worker, "app": self.app, **rest})
        return found

    @property
    def processes(self) -> tuple[ProcessStatus, ...]:
        """Its processes."""
        return self.status.processes

    def name_of(self, process: ProcessStatus) -> str:
        """Return what a process of this worker is called: the id of its session, else its place in the worker."""
        return process.worker or f"{self.worker}:{process.place}"

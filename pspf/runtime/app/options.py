"""Options of `pspf worker` as values, and the plan that they shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pspf.runtime.app.plan import AppPlan, WorkerOptions


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """What a user asked `pspf worker` for; `processes` as `-w` takes it.

    `admin` and `metrics` are `HOST:PORT` or `off`, None for the settings'.
    """

    target: str
    folder: Path
    options: WorkerOptions
    processes: str | None = None
    only: Sequence[str] = ()
    in_process: bool = False
    reload: bool = False
    check: bool = False
    admin: str | None = None
    metrics: str | None = None
    token_file: Path | None = None


def shape_plan(plan: AppPlan, request: WorkerRequest) -> AppPlan:
    """Return the part of the plan that was asked for."""
    plan = plan.only(request.only) if request.only else plan
    return plan.with_processes(request.processes) if request.processes else plan

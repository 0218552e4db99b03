"""Endpoints that change something: each function is one endpoint and requires the token."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pspf.admin.context import AdminContext
from pspf.admin.http_error import HttpError
from pspf.admin.parameters import body_of
from pspf.connectors.views import LetterFilter
from pspf.records import check_name

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

PROCESS = {"process": str}
REPLAY = {"topic": str, "group": str, "handler": str, "error": str, "ids": list, "to": str, "all": bool}
LOG_LEVEL = {"level": str}


async def pause(desk: AdminContext, request: Request) -> Response:
    """Let processes finish their batches and start no others until `resume`."""
    return await _tell(desk, request, "pause")


async def resume(desk: AdminContext, request: Request) -> Response:
    """Start processes that are paused, and at once those that wait after a crash."""
    return await _tell(desk, request, "resume")


async def drain(desk: AdminContext, request: Request) -> Response:
    """Let a process finish its batch and end; without a name, the whole worker."""
    return await _tell(desk, request, "stop")


async def _tell(desk: AdminContext, request: Request, do: str) -> Response:
    process = (await body_of(request, PROCESS)).get("process")
    if process is not None:
        _check_process(desk, process)
    return JSONResponse(dict(await desk.link.ask(do, process=process)))


def _check_process(desk: AdminContext, process: str) -> None:
    """Raise Trouble 404 unless the worker reports such a process, by its slot or by its session id."""
    known = desk.link.look().snapshot.status.processes
    if not any(process in (each.place, each.worker) for each in known):
        places = ", ".join(each.place for each in known) or "none yet"
        raise HttpError(404, f"no process {process!r:.200}; there is {places}")


async def replay(desk: AdminContext, request: Request) -> Response:
    """Give dead letters a new start in the handler that gave them up, oldest first; at most 10,000 a call."""
    fields = await body_of(request, REPLAY)
    ids = fields.get("ids", [])
    if not all(isinstance(each, str) and len(each) <= 300 for each in ids):
        raise HttpError(400, 'ids is a list of ids, such as ["42", "orders/42"]')
    choice = LetterFilter(
        fields.get("topic"), fields.get("group"), fields.get("handler"), fields.get("error"), tuple(ids)
    )
    if choice == LetterFilter() and not fields.get("all"):
        raise HttpError(400, 'which dead letters? say topic, group, handler, error or ids, or {"all": true}')
    to = fields.get("to")
    replayed, left = await desk.broker.replay(choice, to=None if to is None else check_name("topic", to))
    return JSONResponse({"replayed": replayed, "left": left})


async def log_level(desk: AdminContext, request: Request) -> Response:
    """Log from another level on, in all processes, also those that start later."""
    level = (await body_of(request, LOG_LEVEL)).get("level", "")
    if level.upper() not in LEVELS:
        raise HttpError(400, f"level is {', '.join(LEVELS)}, not {level!r:.40}")
    return JSONResponse(dict(await desk.link.ask("log-level", level=level.upper())))

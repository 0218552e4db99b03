"""The table of all endpoints: what each serves, what it requires, and how /docs and /openapi.json describe it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pspf.admin import actions, answers, endpoints
from pspf.admin.answers import Shape
from pspf.admin.context import AdminContext
from pspf.admin.documents import as_openapi, as_page
from pspf.admin.http_error import HttpError, trouble_of
from pspf.admin.parameters import check_query
from pspf.admin.security import Guard, HostRule, check_token, refuse
from pspf.errors import PSPFError
from pspf.loggers import get_logger

logger = get_logger(__name__)

Answer = Callable[[AdminContext, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to ask. `is_open` needs no token anywhere; others need it for POST, and for GET beyond loopback."""

    method: str
    path: str
    answer: Answer
    is_open: bool = False
    query: Sequence[str] = ()
    body: Mapping[str, type] | None = None
    answers: Shape | None = None
    """What comes back as JSON; None for text."""

    @property
    def summary(self) -> str:
        """What it is for."""
        return (self.answer.__doc__ or "").partition("\n")[0]


ENDPOINTS: Final = (
    Endpoint("GET", "/health", endpoints.health, is_open=True, answers=answers.HEALTH),
    Endpoint("GET", "/ready", endpoints.ready, is_open=True, answers=answers.READY),
    Endpoint("GET", "/metrics", endpoints.metrics, is_open=True),
    Endpoint("GET", "/status", endpoints.status, answers=answers.STATUS),
    Endpoint("GET", "/topology", endpoints.topology, answers=answers.TOPOLOGY),
    Endpoint("GET", "/lag", endpoints.lag, query=("group", "topic"), answers=answers.LAG),
    Endpoint(
        "GET", "/state/{handler}", endpoints.state, query=("key", "name", "group", "limit"), answers=answers.STATE
    ),
    Endpoint(
        "GET",
        "/dlq",
        endpoints.dlq,
        query=("topic", "group", "handler", "error", "limit", "offset"),
        answers=answers.DLQ,
    ),
    Endpoint("GET", "/dlq/{topic}/{id}", endpoints.dead_letter, answers=answers.DEAD_LETTER),
    Endpoint("POST", "/pause", actions.pause, body=actions.PROCESS, answers=answers.DONE),
    Endpoint("POST", "/resume", actions.resume, body=actions.PROCESS, answers=answers.DONE),
    Endpoint("POST", "/drain", actions.drain, body=actions.PROCESS, answers=answers.DONE),
    Endpoint("POST", "/dlq/replay", actions.replay, body=actions.REPLAY, answers=answers.REPLAYED),
    Endpoint("POST", "/log-level", actions.log_level, body=actions.LOG_LEVEL, answers=answers.DONE),
)
_PAGES: Final = (
    Endpoint("GET", "/", endpoints.page, is_open=True),
    Endpoint("GET", "/dashboard/{name}", endpoints.page, is_open=True),
)


def make_app(desk: AdminContext) -> ASGIApp:
    """Return the admin's app."""
    routes = [_route(desk, endpoint) for endpoint in (*ENDPOINTS, *_PAGES)]

    async def openapi(request: Request) -> Response:
        return JSONResponse(as_openapi(ENDPOINTS))

    async def docs(request: Request) -> Response:
        return HTMLResponse(as_page(ENDPOINTS))

    routes += [Route("/openapi.json", openapi), Route("/docs", docs)]
    return _guarded(routes, desk, is_exposed=desk.spec.is_exposed)


def make_metrics_app(desk: AdminContext) -> ASGIApp:
    """Return the app of a listener that is for metrics alone."""
    routes = [_route(desk, each) for each in ENDPOINTS if each.path in ("/metrics", "/health")]
    return _guarded(routes, desk, is_exposed=desk.spec.is_metrics_exposed)


def _guarded(routes: Sequence[Route], desk: AdminContext, *, is_exposed: bool) -> ASGIApp:
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _on_http,
            HttpError: lambda request, error: refuse(error),
            PSPFError: lambda request, error: refuse(trouble_of(error)),
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False  # a path is there or it is not
    return Guard(app, HostRule(is_exposed, frozenset(desk.spec.hosts)))


def _route(desk: AdminContext, endpoint: Endpoint) -> Route:
    needs_token = endpoint.method == "POST" or (desk.spec.is_exposed and not endpoint.is_open)

    async def answer(request: Request) -> Response:
        if needs_token:
            check_token(request.headers, desk.spec.token)
        if not endpoint.is_open:  # probes and scrapers may add parameters of their own
            check_query(request, endpoint.query)
        return await endpoint.answer(desk, request)

    return Route(endpoint.path, answer, methods=[endpoint.method])


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"not with {request.method}" if error.status_code == 405 else f"no {request.url.path!r:.200}"
    response = refuse(HttpError(error.status_code, f"{text}; see /docs"))
    response.headers.update(error.headers or {})  # Allow, of a method that is not
    return response


def _on_bug(request: Request, error: Exception) -> Response:
    # Starlette raises it again for the server's log, which has the traceback.
    return JSONResponse({"error": f"{type(error).__name__}; the worker's log has more"}, 500)

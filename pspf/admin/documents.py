"""Documentation of the endpoints: an OpenAPI document, and a page for people."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pspf import __version__
from pspf.admin.answers import Shape, as_schema, as_text

_KINDS = {str: {"type": "string"}, bool: {"type": "boolean"}, list: {"type": "array", "items": {"type": "string"}}}
_ERRORS = {
    "400": "The request is wrong: a foreign Host, or a parameter or a field that is unknown or too long.",
    "401": "The token is missing or wrong.",
    "403": "It comes from another site's page.",
    "404": "What it names is not there.",
    "409": "It can't be done now.",
    "413": "The body is too large.",
    "414": "The address is too long.",
    "503": "The worker or the broker does not answer.",
}


_BACKTICKS = re.compile(r"`([^`]+)`")
_PROBES = ("/health", "/ready")
"""Endpoints whose 503 has the same fields as their 200."""


class Described(Protocol):
    """The documentation of one endpoint."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def query(self) -> Sequence[str]: ...
    @property
    def body(self) -> Mapping[str, type] | None: ...
    @property
    def answers(self) -> Shape | None: ...


def as_openapi(endpoints: Sequence[Described]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PSPF admin",
            "version": __version__,
            "description": "State and controls of a worker.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
            },
        },
    }


def _operation(endpoint: Described) -> dict[str, Any]:
    if endpoint.answers is None:
        answer: dict[str, Any] = {"text/plain": {}}
    else:
        answer = {"application/json": {"schema": as_schema(endpoint.answers)}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"\W+", "_", f"{endpoint.method.lower()}{endpoint.path}").strip("_"),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)}", endpoint.path)
            ),
            *({"name": name, "in": "query", "schema": {"type": "string"}} for name in endpoint.query),
        ],
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            **{code: {"description": text, "content": error} for code, text in _ERRORS.items()},
        },
    }
    if endpoint.path in _PROBES:
        operation["responses"]["503"] = {
            "description": "The same fields where it is not healthy or ready.",
            "content": answer,
        }
    if not endpoint.is_open:
        operation["security"] = [{"token": []}]
    if endpoint.body is not None:
        properties = {name: _KINDS[kind] for name, kind in endpoint.body.items()}
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def as_page(endpoints: Sequence[Described]) -> str:
    """Return the page: one row an endpoint, with the dashboard's style."""
    rows = "".join(
        f"<tr><td><code>{endpoint.method}</code></td><td><code>{html.escape(endpoint.path)}</code></td>"
        f"<td>{_says(endpoint)}{_takes(endpoint)}{_answers(endpoint)}</td></tr>"
        for endpoint in endpoints
    )
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>API · PSPF</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        "<link rel=icon type=image/svg+xml href=/dashboard/icon.svg>"
        "<link rel=stylesheet href=/dashboard/page.css><link rel=stylesheet href=/dashboard/parts.css></head>"
        '<body><header class=bar><div class=brand><img src=/dashboard/icon.svg alt="" width=32 height=32>'
        f"<div class=names><h1>PSPF admin</h1><p class=muted>version {html.escape(__version__)}</p></div></div>"
        "<nav class=actions><a href=/>Dashboard</a> <a href=/openapi.json>openapi.json</a></nav></header><main>"
        "<p>A POST needs <code>Authorization: Bearer TOKEN</code>; beyond loopback so do GETs but /health, /ready and"
        ' /metrics. An error is <code>{"error": text}</code>. An unknown value is null.</p>'
        f'<div class="panel scroll"><table class=endpoints>{rows}</table></div></main></body></html>'
    )


def _says(endpoint: Described) -> str:
    return _BACKTICKS.sub(r"<code>\1</code>", html.escape(endpoint.summary))


def _takes(endpoint: Described) -> str:
    names = [f"?{name}=" for name in endpoint.query] + [f'"{name}"' for name in endpoint.body or ()]
    return f"<p class=muted>takes <code>{html.escape(' '.join(names))}</code></p>" if names else ""


def _answers(endpoint: Described) -> str:
    if endpoint.answers is None:
        return ""
    shape = html.escape(as_text(endpoint.answers))
    return f"<details><summary>answers</summary><pre>{shape}</pre></details>"

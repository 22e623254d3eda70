"""The OpenAPI page, made of the routes that there are: what is a fact of the router stands there alone.

A handler says what it takes and answers, beside itself; which statuses a call may have follows from what the call has: a model in its path, a body, a
verb that the gate is asked for.

Source: https://spec.openapis.org/oas/v3.1.1.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from .._version import __version__
from ._aiohttp import web
from ._guard import VERBS
from ._headers import REQUEST_ID, TIMEOUT
from ._packing import ACCEPTED_ENCODINGS
from ._requests import HEADER_LENGTH
from ._schemas import SCHEMAS

H = TypeVar("H", bound=Callable[..., Any])
_JSON = "application/json"
BINARY = "application/octet-stream"
_REFUSALS = {
    400: "what the request says is wrong, or it is no HTTP request that this server reads",
    401: "there is no token, or none that is known and valid",
    403: "the token does not grant this, or a page of another site asks",
    404: "there is no such model, version, label or region, or the server was started without what is asked for",
    408: "the body was not there in time",
    413: "the body, or a tensor, is larger than this server accepts",
    415: "the type or the encoding of the body is none that this server takes",
    417: "the request expects something else than 100-continue",
    429: "this client asks more than its limits let it",
    499: "the run was cancelled",
    500: "the server failed on this request: its log says more",
    503: "the model is not ready, or the server has more to do than it can",
    504: "the request's time was over before it was answered",
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds after which to ask again", "schema": {"type": "string"}}}
_CHALLENGE = {"WWW-Authenticate": {"description": "what is asked for (RFC 6750)", "schema": {"type": "string"}}}
_HEADERS = {
    401: _CHALLENGE,
    403: _CHALLENGE,
    415: {"Accept-Encoding": {"description": "the encodings that are taken", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


@dataclass(frozen=True)
class Operation:
    """What a handler takes and answers: names of schemas, by media type; `takes` is None where it reads no body."""

    summary: str
    answers: dict[str, str]
    takes: dict[str, str] | None = None
    is_required: bool = False
    refusals: tuple[int, ...] = ()


_OPERATIONS: dict[Callable[..., Any], Operation] = {}


def operation(
    summary: str,
    answers: str | dict[str, str],
    takes: str | dict[str, str] | None = None,
    *,
    is_required: bool = False,
    refusals: tuple[int, ...] = (),
) -> Callable[[H], H]:
    """Tells what a handler does.

    Args:
        answers, takes: the name of a schema, for JSON; or names by media type. Of several methods those with a body take one.
        is_required: the body is not optional.
        refusals: further statuses.
    """

    def tell(handler: H) -> H:
        body = {_JSON: takes} if isinstance(takes, str) else takes
        given = {_JSON: answers} if isinstance(answers, str) else answers
        _OPERATIONS[handler] = Operation(summary, given, body, is_required, refusals)
        return handler

    return tell


def page(app: web.Application) -> dict[str, Any]:
    """The page of an application: its routes that have an operation."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, told, verb in _routes(app):
        entry = paths.setdefault(path, {})
        if "{" in path:
            entry["parameters"] = [_parameter(name) for name in re.findall(r"{(\w+)}", path)]
        entry[method.lower()] = _entry(method, path, told, verb)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "maas-rt",
            "version": __version__,
            "summary": "Open Inference Protocol v2 with extensions of Triton's",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {str(status): _refusal(status, text) for status, text in _REFUSALS.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "an API key or a JWT, where the server asks for tokens"}},
        },
    }  # fmt: skip


def _routes(app: web.Application) -> Iterator[tuple[str, str, Operation, str | None]]:
    for resource in app.router.resources():
        for route in resource:
            told = _OPERATIONS.get(route.handler)
            if told is not None and route.method != "HEAD":
                yield route.method, resource.canonical, told, app[VERBS][route.method, route.handler]


def _entry(method: str, path: str, told: Operation, verb: str | None) -> dict[str, Any]:
    takes = told.takes if method == "POST" else None
    statuses = {400, 403, 500, 503, *told.refusals}
    parameters = [_header(REQUEST_ID, "comes back in the answer, and is in the log", {"type": "string"})]
    found: dict[str, Any] = {"summary": told.summary, "operationId": _identifier(method, path)}
    if verb is not None:
        statuses |= {401, 429}
        found["security"] = [{}, {"token": []}]
        digits = {"type": "string", "pattern": "^[0-9]{1,10}$"}
        parameters.append(_header(TIMEOUT, "milliseconds in which the answer is of use", digits))
    if "{" in path:
        statuses.add(404)
    if takes is not None:
        statuses |= {408, 413, 415, 417}
        text = f"may be packed, as its Content-Encoding says: {ACCEPTED_ENCODINGS}"
        found["requestBody"] = {"description": text, "required": told.is_required, "content": _content(takes)}
        if BINARY in takes:
            digits = {"type": "string", "pattern": "^[0-9]{1,20}$"}
            text = "the length of the JSON document at the body's begin, after which binary data follow"
            parameters.append(_header(HEADER_LENGTH, text, digits))
    found["parameters"] = parameters
    found["responses"] = {
        "200": {"description": "done", "content": _content(told.answers)},
        **{str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)},
    }
    return found


def _identifier(method: str, path: str) -> str:
    """One that is there once: of "/v2" and "/v2/", too."""
    return "_".join([method.lower(), *re.findall(r"\w+", path), *(["root"] if path.endswith("/") else [])])


def _parameter(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"$ref": f"#/components/schemas/{name.capitalize()}"},
    }


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": text, "schema": schema}


def _content(names: dict[str, str]) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in names.items()}


def _refusal(status: int, text: str) -> dict[str, Any]:
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": text, **headers, "content": _content({_JSON: "Error"})}

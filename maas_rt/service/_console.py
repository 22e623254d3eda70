"""The console: a page at / for browsers, and what it asks beside the protocol's own paths.

Its files are static and hold no names and no data: all that the page shows comes from calls that the gate lets in. Whoever is no browser
is told at / what it was told before there was a console.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import NamedTuple

from .._model import CancelToken
from ._aiohttp import web
from ._bodies import check_type
from ._cards import card, overview, profile
from ._guard import CORE, METRICS, Handler, context_of
from ._offload import beside_the_loop

_FOLDER = "console"
_PAGE = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_READS_A_FILE = 1 << 20  # as much work as reading so many bytes
# Everything comes from this server; nothing is inline, framed or sent elsewhere. Images are those that the page itself has drawn.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _File(NamedTuple):
    body: bytes
    content_type: str
    tag: str


def console_routes() -> Iterator[tuple[str, str, Handler, str | None]]:
    """Method, path, handler and verb of each route; the files themselves are for everybody."""
    console = _Console()
    version = "/console/models/{model}/versions/{version}"
    yield "GET", "/", console.page, None
    yield "GET", "/console/overview", _overview, "read"
    yield "GET", "/console/{file}", console.file, None
    yield "GET", version, _card, "read"
    yield "POST", version + "/profile", console.profile, "admin"


class _Console:
    def __init__(self) -> None:
        self._files = {name: _read(name, body) for name, body in _contents()}
        self._profiling = ThreadPoolExecutor(1, "maas-rt profile")  # one at a time: they would disturb one another

    async def page(self, request: web.Request) -> web.Response:
        if "text/html" not in request.headers.get("Accept", ""):
            raise web.HTTPNotFound
        return _answer(request, self._files[_PAGE])

    async def file(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["file"])
        if found is None:
            raise web.HTTPNotFound
        return _answer(request, found)

    async def profile(self, request: web.Request) -> web.Response:
        """Runs a version, and tells where its time went. A caller that goes away ends the run."""
        check_type(request)
        token = CancelToken()
        with request.app[CORE].repository.lease(request.match_info["model"], request.match_info["version"]) as served:
            work = asyncio.wrap_future(self._profiling.submit(profile, served, token))
            try:
                found = await asyncio.shield(work)
            except asyncio.CancelledError:
                token.cancel()
                await asyncio.wait([work])
                raise
        return web.json_response(found)


async def _overview(request: web.Request) -> web.Response:
    return web.json_response(overview(request.app[CORE], request.app[METRICS], context_of(request)))


async def _card(request: web.Request) -> web.Response:
    model, version = request.match_info["model"], request.match_info["version"]
    with request.app[CORE].reading(model, version, context_of(request)) as served:
        return web.json_response(await beside_the_loop(_READS_A_FILE, card, served))


def _contents() -> Iterator[tuple[str, bytes]]:
    for each in (resources.files(__package__) / _FOLDER).iterdir():
        if any(each.name.endswith(ending) for ending in _TYPES):
            yield each.name, each.read_bytes()


def _read(name: str, body: bytes) -> _File:
    return _File(body, _TYPES["." + name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:16]}"')


def _answer(request: web.Request, file: _File) -> web.Response:
    headers = {**_HEADERS, "ETag": file.tag, "Vary": "Accept"}
    if file.tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = f"{file.content_type}; charset=utf-8"
    return web.Response(body=file.body, headers=headers)

"""aiohttp's web, or the one sentence that says how to install it."""

from __future__ import annotations

from .._errors import MissingExtraError

try:
    from aiohttp import web
except ModuleNotFoundError as error:
    raise MissingExtraError("the service", "serve", "aiohttp") from error

__all__ = ["web"]

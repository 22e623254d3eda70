"""A small HTTP service: Open Inference Protocol v2 over REST. Needs the extra `serve`."""

from __future__ import annotations

from .._errors import MissingExtraError

try:
    import aiohttp  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingExtraError("the service", "serve", "aiohttp") from _error

from ._app import create_app, serve
from ._repository import Repository

__all__ = ["Repository", "create_app", "serve"]

"""A small HTTP service: Open Inference Protocol v2 over REST. What speaks HTTP needs the extra `serve`, and is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._app import create_app
    from ._repository import Repository
    from ._serve import serve

__all__ = ["Repository", "create_app", "serve"]

_HOMES = {"Repository": "_repository", "create_app": "_app", "serve": "_serve"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

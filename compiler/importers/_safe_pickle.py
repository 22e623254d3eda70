"""Unpickling that runs nothing but what is listed: each purpose names the few globals that it needs, all else is refused.

A pickle can only call what it looked up through `find_class`, so a table of harmless stand-ins is the whole defence: none of
them is the original class or function, and none has side effects. (Python's documentation of pickle, "Restricting Globals".)
The interpreter is Python's own in Python: the one in C takes memory for a memo index before it looks at it.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

__all__ = ["COMMON", "RefusedPickleError", "loads"]

# Plain containers and numbers that any pickle may build.
COMMON: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("__builtin__", "set"): set,
    ("__builtin__", "complex"): complex,
}


class RefusedPickleError(Exception):
    """The pickle is broken, or asks for something that is not on the list; the text says which, in a clause."""


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, data: bytes, allowed: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed = allowed
        self._persistent = persistent

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._allowed[module, name]
        except (KeyError, TypeError):
            wanted = f"{module}.{name}"[:80].encode("ascii", "backslashreplace").decode()
            raise RefusedPickleError(
                f"its pickle wants {wanted}, which is not one of the few things it may use"
            ) from None

    def get_extension(self, code: int) -> None:
        raise RefusedPickleError("its pickle uses the extension registry")

    def persistent_load(self, pid: Any, /) -> Any:
        if self._persistent is None:
            raise RefusedPickleError("its pickle refers to data outside itself")
        return self._persistent(pid)

    def load_build(self) -> None:
        """Attributes are given to objects of the pickle's own only: a stand-in that lives on must not change."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(target, OrderedDict):
            return  # a state dict's version numbers
        if not getattr(type(target), "takes_state", False):
            raise RefusedPickleError(f"its pickle changes a {type(target).__name__}")
        target.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def loads(data: bytes, allowed: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object in `data`, made of `allowed` (by module and name) and builtin literals; persistent ids go to `persistent`.

    Raises RefusedPickleError for everything else, damage included.
    """
    try:
        return _Unpickler(data, {**COMMON, **allowed}, persistent).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise RefusedPickleError(f"its pickle is damaged ({type(error).__name__})") from error

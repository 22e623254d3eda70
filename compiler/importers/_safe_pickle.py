"""Unpickling that runs nothing but what is listed: each purpose names the few globals that it needs.

A pickle can only call what it looked up through `find_class`, so a table of harmless stand-ins is the whole defence: none of
them is the original class or function, and none has side effects. (Python's documentation of pickle, "Restricting Globals".)
The interpreter is Python's own in Python: the one in C takes memory for a memo index before it looks at it.

Time and memory are bounded by the pickle's length: an opcode takes a step, and whatever costs more than that (a call on a long
argument, a key whose hash is a walk over nested tuples, keys that fall on one place of a hash table) draws on an allowance.
"""

from __future__ import annotations

import builtins
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, ClassVar

__all__ = ["COMMON", "WITH_ITEMS", "Inert", "InertKind", "RefusedPickleError", "inert_tensor", "load_from", "loads"]

# Plain containers and numbers that any pickle may build.
COMMON: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
    ("__builtin__", "complex"): complex,
}
WITH_ITEMS = "{}"  # behind the name of a class whose objects are mappings
_FREE = 1_000_000
_PER_BYTE = 4
_LONGEST_INTEGER = 1024  # bits
_WIDEST_KEY = 256  # parts of a key made of tuples
_PROBES_A_STEP = 16  # places of a hash table that are looked at while the interpreter takes a step
_PLAIN_KEYS = 1 << 20  # integers below this share few places of a hash table
# No weights need these, inert or not.
_SUSPECT = frozenset(
    "os posix nt sys subprocess shutil socket ctypes importlib runpy pty marshal webbrowser pdb builtins __builtin__".split()
)
# Except builtin types and constants, with which classes, default values and Python 2's numbers are pickled.
_HARMLESS = {name for name, value in vars(builtins).items() if isinstance(value, type)}
_HARMLESS |= {"unicode", "long", "xrange", "Ellipsis", "NotImplemented"}


class RefusedPickleError(Exception):
    """The pickle is broken, or asks for something that is not on the list; the text says which, in a clause."""


class Inert:
    """Stands for an object of a class that is not read: it knows the class's name, what it was made with, its state and its items,
    and does nothing."""

    takes_state = True
    tensor = False  # whether it stands for a tensor of a class of its own

    def __init__(self, kind: str, args: tuple[Any, ...] = ()) -> None:
        self.kind = kind
        self.args = args
        self.state: Any = None
        self.items: dict[Any, Any] = {}

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """A member of a list, a set or a deque, which is dropped."""

    add = append

    def extend(self, items: Any) -> None:
        """Members, which are dropped."""


def inert_tensor(dtype: str) -> Inert:
    """Stands for a tensor of elements that are not read."""
    made = Inert(f"tensor of {dtype[:40]}")
    made.tensor = True
    return made


class InertKind:
    """Stands for a class or function that is not on the list; calling it gives an Inert of its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert(self.name, args)


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    append: Callable[[Any], None]

    def __init__(
        self,
        stream: IO[bytes],
        length: int,
        allowed: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None,
        inert: set[str] | None,
    ) -> None:
        super().__init__(stream, encoding="utf-8", errors="backslashreplace")
        self._length = length
        self._steps_left = _FREE + _PER_BYTE * length
        self._allowed = allowed
        self._persistent = persistent
        self._inert = inert

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._allowed[module, name]
        except (KeyError, TypeError):
            wanted = f"{module}.{name}"[:80].encode("ascii", "backslashreplace").decode()
        root = module.partition(".")[0]
        harmless = root not in _SUSPECT or (module in ("builtins", "__builtin__") and name in _HARMLESS)
        if self._inert is not None and harmless and wanted == f"{module}.{name}":
            self._inert.add(wanted)
            return InertKind(wanted)
        raise RefusedPickleError(f"its pickle wants {wanted}, which is not one of the few things it may use")

    def get_extension(self, code: int) -> None:
        raise RefusedPickleError("its pickle uses the extension registry")

    def persistent_load(self, pid: Any, /) -> Any:
        if self._persistent is None:
            raise RefusedPickleError("its pickle refers to data outside itself")
        return self._persistent(pid)

    def _spend(self, cost: int) -> None:
        self._steps_left -= cost
        if self._steps_left < 0:
            raise RefusedPickleError("its pickle takes more steps than one of its length should")

    def _check_key(self, key: Any, entries: int) -> None:
        """A key that is quickly hashed and found; `entries` are in the container already."""
        if isinstance(key, (str, bytes)) or key is None or getattr(type(key), "takes_state", False):
            return
        if isinstance(key, int) and -_PLAIN_KEYS < key < _PLAIN_KEYS:
            return
        parts, found = [key], 0
        while parts:
            part = parts.pop()
            found += 1
            if isinstance(part, (tuple, frozenset)):
                parts.extend(part)
            if found + len(parts) > _WIDEST_KEY:
                raise RefusedPickleError("its pickle has keys that are nested too deeply")
        self._spend(entries // _PROBES_A_STEP + found)

    def _fill(self, target: Any, items: Iterable[tuple[Any, Any]]) -> None:
        if not isinstance(target, (dict, Inert)):
            raise RefusedPickleError(f"its pickle sets items of a {type(target).__name__}")
        mapping = target.items if isinstance(target, Inert) else target
        if isinstance(target, Inert) and self._inert is not None:
            self._inert.add(target.kind + WITH_ITEMS)
        for key, value in items:
            self._check_key(key, len(mapping))
            mapping[key] = value

    def _members(self, kind: Any, items: Iterable[Any]) -> Any:
        found: set[Any] = set()
        for item in items:
            self._check_key(item, len(found))
            found.add(item)
        return kind(found)

    def _call(self, function: Any, args: Any) -> Any:
        """What the pickle calls: containers are made here, key by key; the rest is on the list, and takes what its arguments are long."""
        if not isinstance(args, tuple):
            raise RefusedPickleError("its pickle calls something without arguments")
        self._spend(len(args) + sum(len(a) for a in args if isinstance(a, (str, bytes, list, tuple, dict, set))))
        if function in (set, frozenset):
            return self._members(function, args[0] if args else ())
        if function is OrderedDict:
            made: OrderedDict[Any, Any] = OrderedDict()
            given = args[0] if args else ()
            self._fill(made, given.items() if isinstance(given, dict) else given)
            return made
        return function(*args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def _new_object(self, kind: Any, args: Any) -> Any:
        """An object of a class: as NEWOBJ makes it, without __init__."""
        if isinstance(kind, InertKind) or kind in (set, frozenset, OrderedDict):
            return self._call(kind, tuple(args))
        if not isinstance(kind, type):
            raise RefusedPickleError("its pickle makes an object of something that is no class")
        return kind.__new__(kind, *args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._new_object(self.stack[-1], args)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.load_newobj()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, kind: Any, args: Any) -> None:
        """INST and OBJ, of protocols 0 and 1."""
        self.append(self._call(kind, tuple(args)))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [(key, value)])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        made: dict[Any, Any] = {}
        self._fill(made, zip(items[::2], items[1::2], strict=True))
        self.append(made)

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if isinstance(target, set):
            for item in items:
                self._check_key(item, len(target))
                target.add(item)
        elif not isinstance(target, Inert):
            raise RefusedPickleError(f"its pickle adds members to a {type(target).__name__}")

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        self.append(self._members(frozenset, self.pop_mark()))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_long1(self) -> None:
        self._integer(self.read(1)[0])  # type: ignore[attr-defined]

    dispatch[pickle.LONG1[0]] = load_long1

    def load_long4(self) -> None:
        self._integer(int.from_bytes(self.read(4), "little"))  # type: ignore[attr-defined]

    dispatch[pickle.LONG4[0]] = load_long4

    def _integer(self, length: int) -> None:
        if length * 8 > _LONGEST_INTEGER:
            raise RefusedPickleError("its pickle has an enormous number")
        self.append(int.from_bytes(self.read(length), "little", signed=True))  # type: ignore[attr-defined]

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        if length > self._length:
            raise RefusedPickleError("its pickle is shorter than it says")
        self.append(bytearray(self.read(length)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self) -> None:
        """Attributes are given to objects of the pickle's own only: a stand-in that lives on must not change."""
        state = self.stack.pop()
        target = self.stack[-1]
        self._spend(len(state) if isinstance(state, (tuple, dict)) else 1)
        if isinstance(target, OrderedDict):
            if isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # a state dict's version numbers
            return
        if not getattr(type(target), "takes_state", False):
            raise RefusedPickleError(f"its pickle changes a {type(target).__name__}")
        target.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def loads(
    data: bytes,
    allowed: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    inert: set[str] | None = None,
) -> Any:
    """The object in `data`, made of `allowed` (by module and name) and builtin literals; persistent ids go to `persistent`.

    What is not allowed is refused; given a set as `inert`, it becomes an Inert that does nothing, and its name is added there, and again with
    WITH_ITEMS where it was given items. Raises RefusedPickleError, for damage too.
    """
    return load_from(io.BytesIO(data), len(data), allowed, persistent, inert=inert)


def load_from(
    stream: IO[bytes],
    length: int,
    allowed: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    inert: set[str] | None = None,
) -> Any:
    """As `loads`, from where the stream stands to the pickle's end; `length` bounds what it may take."""
    try:
        return _Unpickler(stream, length, {**COMMON, **allowed}, persistent, inert).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise RefusedPickleError(f"its pickle is damaged ({type(error).__name__})") from error

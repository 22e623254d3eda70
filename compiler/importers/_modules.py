"""Whole modules, pickled or scripted, as the state dicts that they would give: none of their code runs, their own attributes tell.

Whatever its class, an nn.Module keeps `_parameters`, `_buffers`, `_modules` and `_non_persistent_buffers_set` in its state
(torch/nn/modules/module.py), and a scripted module its attributes by name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ._objects import array_of, nest_of
from ._safe_pickle import Inert, RefusedPickleError

__all__ = ["LiveState", "is_module", "scripted_state", "unfolded"]

_DEEPEST = 64
_MAX_COST = 1 << 25  # modules, names and their characters, all together
_COST_PER_NAME = 32
_MOST_ITEMS = 16  # of a tuple or a list: (state dict, optimizer's, epoch)
Parts = tuple[Iterator[tuple[str, Any]], Iterator[tuple[str, Any]]]


class LiveState(OrderedDict[Any, Any]):
    """The state of a module that was saved whole, and so has the versions that its classes have today."""


class _Walk:
    """Collects states, within bounds that hold for all of a file together: modules may share others, and contain each other."""

    def __init__(self, parts: Callable[[Inert], Parts]) -> None:
        self._parts = parts
        self._budget = _MAX_COST

    def state(self, module: Inert) -> LiveState:
        found = LiveState()
        self._collect(module, "", 0, found)
        return found

    def _collect(self, module: Inert, prefix: str, depth: int, found: LiveState) -> None:
        if depth > _DEEPEST:
            raise RefusedPickleError("its modules are nested too deeply, or contain each other")
        own, children = self._parts(module)
        for name, value in own:
            self.spend(prefix, name)
            if value is not None:
                found[prefix + name] = value
        for name, child in children:
            self.spend(prefix, name)
            if isinstance(child, Inert):
                self._collect(child, f"{prefix}{name}.", depth + 1, found)

    def spend(self, prefix: str, name: str) -> None:
        self._budget -= _COST_PER_NAME + len(prefix) + len(name)
        if self._budget < 0:
            raise RefusedPickleError("it has more modules than a model has")


def is_module(value: Any) -> bool:
    """Whether this stands for an nn.Module."""
    if not isinstance(value, Inert) or not isinstance(value.state, dict):
        return False
    return all(isinstance(value.state.get(key), dict) for key in ("_parameters", "_buffers", "_modules"))


def _module_parts(module: Inert) -> Parts:
    if not is_module(module):
        raise RefusedPickleError(f"it has a {module.kind} where a module should be")
    state = module.state
    unsaved = state.get("_non_persistent_buffers_set")
    unsaved = unsaved if isinstance(unsaved, (set, frozenset)) else ()
    buffers = ((name, value) for name, value in state["_buffers"].items() if name not in unsaved)
    return _named((*state["_parameters"].items(), *buffers)), _named(state["_modules"].items())


def _named(items: Any) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in items if isinstance(name, str))


def unfolded(value: Any) -> Any:
    """The value, with the state of a module in the place of each module in it, in however many mappings, a tensor in the place of
    numpy's arrays, and a mapping in the place of an object that holds something, where it is met first."""
    walk = _Walk(_module_parts)
    seen: set[int] = set()  # objects may hold each other

    def replaced(item: Any, depth: int) -> Any:
        if is_module(item):
            return walk.state(item)
        if isinstance(item, Inert) and depth < _DEEPEST:
            array = array_of(item)
            nest = nest_of(item) if array is None and id(item) not in seen else None
            if nest is None:
                return item if array is None else array
            seen.add(id(item))
            item = nest
        if isinstance(item, Mapping) and depth < _DEEPEST:
            if not any(isinstance(inner, (Inert, Mapping)) for inner in item.values()):
                return item
            walk.spend("", "")
            made: OrderedDict[Any, Any] = OrderedDict()
            for key, inner in item.items():
                walk.spend("", "")
                made[key] = replaced(inner, depth + 1)
            if hasattr(item, "_metadata"):
                made._metadata = item._metadata  # type: ignore[attr-defined]
            return made
        return item

    if isinstance(value, (list, tuple)) and any(isinstance(part, (Mapping, Inert)) for part in value[:_MOST_ITEMS]):
        value = dict(enumerate(value[:_MOST_ITEMS]))
    return replaced(value, 0)


def scripted_state(root: Any, declared: Mapping[str, frozenset[str]] | None) -> LiveState:
    """Of a scripted module: the attributes that its class declares as parameters and buffers (None: all of them)."""

    def parts(module: Inert) -> Parts:
        state = module.state if isinstance(module.state, dict) else {}
        wanted = declared.get(module.kind, frozenset()) if declared is not None else None
        modules = {
            name for name, value in state.items() if isinstance(value, Inert) and value.kind.startswith("__torch__.")
        }
        own = ((n, v) for n, v in _named(state.items()) if n not in modules and (wanted is None or n in wanted))
        return own, ((n, v) for n, v in _named(state.items()) if n in modules)

    if not isinstance(root, Inert) or not isinstance(root.state, dict):
        raise RefusedPickleError("it is a TorchScript archive without a module: save the module's state_dict() instead")
    found = _Walk(parts).state(root)
    if not found:
        raise RefusedPickleError(
            "it is a TorchScript archive whose weights are constants of its code (frozen): save it before torch.jit.freeze"
        )
    return found

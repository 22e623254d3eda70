"""Weights from what training left behind, without running anything that a file carries: docs/checkpoints.md lists what is read.

Two readers must agree on every tensor that is used: this project's, and that of the library which wrote the file (`Contents.read_by_library`).
"""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from maas_rt._errors import CheckpointError

from .._configs import Weights
from ..ir import Encoded
from ._contents import Contents, NotPlainError, Sliced, StoredTensor, leaves, materialised, same_bits
from ._layouts import open_contents
from ._modules import LiveState
from ._names import WEIGHT_NESTS, Entry, Fit, Names
from ._quantized import layer_of
from ._safe_pickle import Inert, RefusedPickleError
from ._saved import described

__all__ = ["FewBits", "load_checkpoint", "read_checkpoint"]

_LISTED = 20
_GROUP = 1 << 25  # bytes of weights that are in memory beside the module at a time
# What torch leaves in a module that keeps a weight as something else, by names that end so.
_LEFT_BY = (
    (
        r"weight_u$",
        "weights under spectral_norm: let --model apply it too, or save after torch.nn.utils.remove_spectral_norm",
    ),
    (
        r"(weight|bias)_(orig|mask)$",
        "pruned by torch.nn.utils.prune: call prune.remove(module, name) for each, and save again",
    ),
    (
        r"(_packed_params(\.|$)|(^|\.)zero_point$)",
        "modules quantized by torch.ao: export the quantized model to .pt2, or save before it is quantized",
    ),
    (
        r"(^|\.)parametrizations\.",
        "parametrized weights: register the same in --model, or save after parametrize.remove_parametrizations",
    ),
    (
        r"weight_(g|v)$",
        "weights under weight_norm: let --model apply it too, or save after torch.nn.utils.remove_weight_norm",
    ),
)
_TRIED = 3  # candidates that the module's load hooks are tried on
Source = Path | Sequence[Path]
FewBits = Mapping[str, Callable[[], Encoded | None]]  # how a weight is encoded, by its name


def read_checkpoint(path: Source) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name: of its nest of weights if it has one under a usual key, wrappers' words still on them."""
    contents = _opened(path)
    with _Refusals(contents.name):
        tree: Mapping[Any, Any] = contents.tree
        while not any(isinstance(leaf, StoredTensor) for leaf in tree.values()):
            nest = next((key for key in sorted(WEIGHT_NESTS) if isinstance(tree.get(key), Mapping)), None)
            if nest is None:
                break
            tree = tree[nest]
        return {
            ".".join(map(str, where)): leaf.read() for where, leaf in leaves(tree) if isinstance(leaf, StoredTensor)
        }


def load_checkpoint(module: torch.nn.Module, path: Source, weights: Weights | None = None) -> FewBits:
    """Fill the module from a checkpoint, and say which of its weights that has in few bits, by their names in the module's state dict. Every
    missing, surplus and misshapen name is listed in one CheckpointError."""
    weights = weights or Weights()
    own = any(
        layer_of(name) is not None for name in module.state_dict()
    )  # a module that computes with quantized weights
    contents = _opened(path, floats=not own)
    with _Refusals(contents.name):
        names = Names(contents, weights.key, weights.prefix)
        if not any(isinstance(entry.leaf, (StoredTensor, Sliced)) for entry in names.entries):
            raise RefusedPickleError(_without_tensors(names))
        return _Loading(module, contents, names, weights).load()


class _Refusals:
    """Turns a RefusedPickleError into a CheckpointError that names the checkpoint."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, RefusedPickleError):
            raise CheckpointError(f"the checkpoint {self._name} is refused: {error}") from error
        if isinstance(error, OSError):
            raise CheckpointError(f"the checkpoint {self._name} cannot be read: {error.strerror or error}") from error


def _opened(path: Source, *, floats: bool = True) -> Contents:
    path = Path(path) if isinstance(path, (str, Path)) else [Path(part) for part in path]
    with _Refusals(path.name if isinstance(path, Path) else " and ".join(part.name for part in path)):
        return open_contents(path, floats=floats)


def _without_tensors(names: Names) -> str:
    other = next((entry for entry in names.entries if isinstance(entry.leaf, Inert)), None)
    if other is not None:
        return f"it holds no tensors under names; {other.name} is {described(other.leaf)}"
    return "it holds no tensors under names: expected a state dict, as torch.save(module.state_dict(), path) writes"


class _Loading:
    """One module, filled from one checkpoint."""

    def __init__(self, module: torch.nn.Module, contents: Contents, names: Names, weights: Weights) -> None:
        self._module = module
        self._contents = contents
        self._names = names
        self._weights = weights
        self._state = module.state_dict(keep_vars=True)
        self._lazy = [n for n, v in self._state.items() if isinstance(v, UninitializedTensorMixin)]
        self._meta = any(isinstance(v, torch.Tensor) and v.is_meta for v in self._state.values())

    def load(self) -> FewBits:
        fit, state = self._best_fit()
        self._check_values(fit)
        if self._hooked():
            self._fill(state)
        else:
            for group in _groups(state):
                self._fill(group)
        self._check_filled()
        found = {name: getattr(entry.leaf, "encoded", None) for name, entry in state.items()}
        return {name: encoded for name, encoded in found.items() if encoded is not None}

    def _best_fit(self) -> tuple[Fit, dict[str, Entry]]:
        """The candidate that fits, and the state dict to load: the model's names, or what its load hooks make them of."""
        fits = self._names.fits({name: self._shape(name) for name in self._state})
        for fit in fits:
            self._forgive(fit)
        fits = self._names.best_first(fits)
        exact = self._names.exact(fits)
        if exact:
            self._unambiguous(exact)
            return exact[0], exact[0].chosen
        for fit in fits[:_TRIED]:
            state = self._by_hooks(fit)
            if state is not None:
                return fit, state
        raise self._misfit(self._names.best_first(fits)[0])

    def _shape(self, name: str) -> tuple[int, ...] | None:
        value = self._state[name]
        return tuple(value.shape) if isinstance(value, torch.Tensor) and name not in self._lazy else None

    def _forgive(self, fit: Fit) -> None:
        """What is missing, but is the same memory as a weight that is there; what is surplus, but is a buffer that the model makes
        itself, as it was saved once; and all that is surplus, if that is to be ignored."""
        for name in list(fit.missing):
            other = next((n for n in self._tied_names(name) if n in fit.chosen), None)
            if other is not None:
                fit.missing.remove(name)
                fit.chosen[name] = fit.chosen[other]
        unsaved = {name: value for name, value in self._module.named_buffers() if name not in self._state}
        for name, entry in fit.rest.items():
            mine = unsaved.get(name)
            if mine is not None and entry in fit.surplus and isinstance(entry.leaf, StoredTensor) and not mine.is_meta:
                if entry.shape() == tuple(mine.shape) and same_bits(entry.leaf.read(), mine):
                    fit.surplus.remove(entry)
        if self._weights.ignore_surplus:
            fit.surplus.clear()

    def _tied_names(self, name: str) -> list[str]:
        """Other names of the same weight."""
        mine = self._state[name]
        if not isinstance(mine, torch.Tensor) or name in self._lazy or mine.numel() == 0:
            return []
        return [
            n
            for n, v in self._state.items()
            if n != name
            and isinstance(v, torch.Tensor)
            and (v is mine or (not mine.is_meta and n not in self._lazy and not v.is_meta and _same_memory(v, mine)))
        ]

    def _unambiguous(self, exact: Sequence[Fit]) -> None:
        """Raises where two nests fit and hold different weights."""
        first = exact[0]
        for other in exact[1:]:
            for name, entry in first.chosen.items():
                rival = other.chosen[name]
                if rival.leaf is entry.leaf or not isinstance(entry.leaf, StoredTensor):
                    continue
                if not isinstance(rival.leaf, StoredTensor) or not same_bits(entry.leaf.read(), rival.leaf.read()):
                    nests = " and ".join(repr(fit.prefix.rstrip(".") or "(no prefix)") for fit in (first, other))
                    raise CheckpointError(
                        f"the checkpoint {self._contents.name} has two sets of weights that fit and differ, {nests}: choose one with --key, "
                        f"as --key {first.prefix.rstrip('.') or other.prefix.rstrip('.')}"
                    )

    def _by_hooks(self, fit: Fit) -> dict[str, Entry] | None:
        """The state dict that load_state_dict takes without a fault, tried on a copy without memory: its pre-hooks may rename names or
        add some. What it found becomes the fit's."""
        state = {**fit.rest, **fit.chosen}
        if any(isinstance(entry.leaf, Sliced) for entry in state.values()):
            return None  # no hook tells its shape
        try:
            twin = _twin(self._module)
            values: dict[str, Any] = {
                name: torch.empty(entry.leaf.shape, dtype=entry.leaf.dtype, device="meta")
                for name, entry in state.items()
                if isinstance(entry.leaf, StoredTensor)
            }
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = twin.load_state_dict(_with_versions(values, self._versions(state)), strict=False, assign=True)
        except RuntimeError as error:
            sizes = re.findall(
                r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)", str(error)
            )
            fit.misshapen = [
                f"{n} (checkpoint ({theirs}), model ({ours}))" for n, theirs, ours in sizes
            ] or fit.misshapen
            return None
        except Exception:  # a hook that needs values, or a module that cannot be copied
            return None
        used = {name: entry for name, entry in state.items() if name not in result.unexpected_keys}
        nodes = {entry.location[:-1] for entry in used.values()}
        fit.missing = [
            name for name in result.missing_keys if name not in used and not set(self._tied_names(name)) & set(used)
        ]
        surplus = [entry for name, entry in state.items() if name not in used and entry.location[:-1] in nodes]
        surplus += [entry for entry in fit.surplus if not entry.plain.startswith(fit.prefix)]
        fit.surplus = [] if self._weights.ignore_surplus else surplus
        fit.misshapen = []
        return used if fit.faults() == 0 else None

    def _hooked(self) -> bool:
        """Whether something takes part in loading that may need names of several modules at once."""
        return bool(self._lazy) or any(
            module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks for module in self._module.modules()
        )

    def _check_values(self, fit: Fit) -> None:
        """What no name tells: values of a kind that the weight cannot hold, ties that the checkpoint does not have."""
        for name, entry in fit.chosen.items():
            mine = self._state.get(name)
            if isinstance(entry.leaf, Inert):
                raise RefusedPickleError(f"{entry.name} is {described(entry.leaf)}")
            if isinstance(mine, torch.Tensor) and isinstance(entry.leaf, StoredTensor) and name not in self._lazy:
                if entry.leaf.dtype.is_complex and not mine.dtype.is_complex:
                    raise RefusedPickleError(f"{entry.name} is complex, and the model's {name} is {mine.dtype}")
                if entry.leaf.dtype.is_floating_point and not (mine.is_floating_point() or mine.is_complex()):
                    raise RefusedPickleError(
                        f"{entry.name} is {entry.leaf.dtype}, and the model's {name} is {mine.dtype}"
                    )
            for other in self._tied_names(name) if name in self._state else ():
                rival = fit.chosen.get(other)
                if rival is None or rival.leaf is entry.leaf or other < name:
                    continue
                if not (isinstance(rival.leaf, StoredTensor) and isinstance(entry.leaf, StoredTensor)):
                    continue
                if not same_bits(entry.leaf.read(), rival.leaf.read()):
                    raise RefusedPickleError(
                        f"the model keeps {name} and {other} in the same memory, and the checkpoint has different values for them: "
                        "let --model build them apart"
                    )

    def _fill(self, state: Mapping[str, Entry]) -> None:
        """Load these names, their values agreed on by two readers."""
        values = self._agreed(state)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                self._module.load_state_dict(
                    _with_versions(values, self._versions(state)), strict=False, assign=self._meta
                )
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            text = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
            raise CheckpointError(
                f"the module does not take the weights of {self._contents.name}: {text[:300]}"
            ) from error

    def _agreed(self, state: Mapping[str, Entry]) -> dict[str, Any]:
        """The values, read here first, which finds what is hostile, and then by the library that wrote them."""
        values: dict[str, Any] = {}
        for name, entry in state.items():
            try:
                values[name] = materialised(entry.leaf)
            except NotPlainError as reason:
                raise RefusedPickleError(
                    f"{entry.name} {reason}: load the model in torch, and export it to .pt2"
                ) from reason
        for (name, entry), other in zip(
            state.items(), self._contents.read_by_library([e.location for e in state.values()])
        ):
            if other is not None and not _same(values[name], other):
                raise RefusedPickleError(
                    f"{entry.name} is read in two ways, here and by the library that wrote it: please report this"
                )
        return values

    def _versions(self, state: Mapping[str, Entry]) -> dict[str, Any]:
        """The versions that torch.save keeps of each module, by the names that are loaded."""
        versions: dict[str, Any] = {}
        nodes: dict[int, Mapping[Any, Any]] = {}
        for name, entry in state.items():
            node: Any = self._contents.tree
            for key in entry.location[:-1]:
                node = node[key]
            if isinstance(node, LiveState):
                versions |= self._own_versions(name)
                continue
            metadata = nodes.setdefault(id(node), getattr(node, "_metadata", None) or {})
            module, own = name.rpartition(".")[0], str(entry.location[-1]).rpartition(".")[0]
            if isinstance(metadata, Mapping) and isinstance(metadata.get(own), Mapping):
                version = metadata[own].get("version")
                if isinstance(version, int):
                    versions[module] = {"version": version}
        return versions

    def _own_versions(self, name: str) -> dict[str, Any]:
        """The version that the class of a weight's module has today."""
        owner = name.rpartition(".")[0]
        try:
            version = getattr(self._module.get_submodule(owner), "_version", None)
        except AttributeError:
            return {}
        return {owner: {"version": version}} if isinstance(version, int) else {}

    def _check_filled(self) -> None:
        """Nothing is left without a value: on the meta device, or of a size that only a first call would tell."""
        tensors = [*self._module.named_parameters(), *self._module.named_buffers()]
        for name, value in tensors:
            if isinstance(value, UninitializedTensorMixin):
                raise CheckpointError(f"the checkpoint {self._contents.name} leaves {name} without a size: it lacks it")
            if value.is_meta:
                raise CheckpointError(
                    f"the model has {name} on the meta device, and no checkpoint saves it: let --model build it on the CPU"
                )

    def _misfit(self, fit: Fit) -> CheckpointError:
        surplus = [_shown(entry) for entry in fit.surplus]
        parts = [
            _listing("lacks", sorted(fit.missing)),
            _listing("has no use for", sorted(surplus)),
            _listing("has another shape of", sorted(fit.misshapen)),
        ]
        text = "; ".join(part for part in parts if part)
        advice = self._advice(fit)
        return CheckpointError(
            f"the checkpoint {self._contents.name} does not fit the model: it {text}"
            + (f" ({advice})" if advice else ""),
            sorted(fit.missing),
            sorted(surplus),
            sorted(fit.misshapen),
        )

    def _advice(self, fit: Fit) -> str:
        inert = next((entry for entry in fit.surplus if isinstance(entry.leaf, Inert)), None)
        if inert is not None:
            return f"{inert.name} is {described(inert.leaf)}"
        if any("lora_" in entry.name for entry in self._names.entries):
            return (
                "it has adapters of PEFT, which change other weights: give their folder with its adapter_config.json too, or load them with "
                "PEFT, and save merge_and_unload().state_dict()"
            )
        if any(entry.name.endswith("flat_param") for entry in self._names.entries):
            return "flat parameters of FSDP: save with torch.distributed.checkpoint, or a FULL_STATE_DICT"
        if not fit.chosen:
            there = [entry.name for entry in self._names.entries if isinstance(entry.leaf, StoredTensor)]
            wanted = fit.missing[0] if fit.missing else ""
            near = difflib.get_close_matches(wanted, there[:5000], n=3, cutoff=0.4) or there[:3]
            nests = f"its keys are {', '.join(self._names.nests[:8])}, " if self._names.nests else ""
            return f"{nests}the nearest names to {wanted} are {', '.join(near)}: --key and --prefix choose among them"
        for pattern, advice in _LEFT_BY:
            if any(re.search(pattern, entry.name) for entry in self._names.entries):
                return advice
        if any(
            re.search(r"(SCB|absmax|quant_map|qweight|qzeros|scales|weight_scale)(\.|$)", e.name) for e in fit.surplus
        ):
            return "weights that were quantized: give the checkpoint that they were made from"
        parts = {_fraction(text) for text in fit.misshapen}
        if len(parts) == 1 and None not in parts and not fit.missing:
            return (
                f"each is about 1/{parts.pop()} of the model's: if this is one rank's part of tensor parallelism, save the whole with "
                "torch.distributed.checkpoint"
            )
        if fit.surplus and not fit.missing and not fit.misshapen:
            return f"--ignore-surplus leaves {'it' if len(fit.surplus) == 1 else 'them'} out"
        near = difflib.get_close_matches(fit.missing[0], list(fit.rest)[:5000], n=3) if fit.missing else []
        return f"the nearest to {fit.missing[0]} is {', '.join(near)}" if near else ""


def _shown(entry: Entry) -> str:
    return f"{entry.name} (a {entry.leaf.kind})" if isinstance(entry.leaf, Inert) else entry.name


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what} {', '.join(names[:_LISTED])}{more}"


def _fraction(text: str) -> int | None:
    """Of "name (checkpoint (2, 4), model (8, 4))": 4, if one extent is a part of the model's, about that, and the others are equal."""
    found = re.search(r"checkpoint \((.*?)\), model \((.*?)\)\)", text)
    if found is None:
        return None
    theirs, ours = ([int(n) for n in part.split(",") if n.strip()] for part in found.groups())
    differing = [(a, b) for a, b in zip(theirs, ours) if a != b]
    if len(theirs) != len(ours) or len(differing) != 1 or not 0 < differing[0][0] < differing[0][1]:
        return None
    return max(2, round(differing[0][1] / differing[0][0]))


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _same(one: Any, other: Any) -> bool:
    """Whether two readings of a value agree."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and same_bits(one, other)
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(_same(v, other[k]) for k, v in one.items())
        )
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


def _twin(module: torch.nn.Module) -> torch.nn.Module:
    """A copy on the meta device: no weight is duplicated."""
    memo: dict[int, Any] = {}
    for value in [*module.parameters(), *module.buffers()]:
        if isinstance(value, UninitializedTensorMixin):
            continue
        bare = torch.empty_like(value, device="meta")
        memo[id(value)] = (
            torch.nn.Parameter(bare, value.requires_grad) if isinstance(value, torch.nn.Parameter) else bare
        )
    return copy.deepcopy(module, memo)


def _with_versions(values: Mapping[str, Any], versions: Mapping[str, Any]) -> dict[str, Any]:
    state: OrderedDict[str, Any] = OrderedDict(values)
    if versions:
        state._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return state


def _groups(state: Mapping[str, Entry]) -> Iterator[dict[str, Entry]]:
    """The names in pieces of some 32 MiB, those of one module together."""
    modules: dict[str, dict[str, Entry]] = {}
    for name, entry in state.items():
        modules.setdefault(name.rpartition(".")[0], {})[name] = entry
    group: dict[str, Entry] = {}
    size = 0
    for members in modules.values():
        extra = sum(entry.leaf.bytes() for entry in members.values() if isinstance(entry.leaf, StoredTensor))
        if group and size + extra > _GROUP:
            yield group
            group, size = {}, 0
        group.update(members)
        size += extra
    if group:
        yield group

"""LoRA adapters of PEFT, merged into the weights that they change, as its merge_and_unload() merges them, in float32.

An adapter's folder has adapter_config.json and adapter_model.safetensors (peft/utils/save_and_load.py); a wrapped model's own state dict
has the same tensors among its weights, with `base_layer` in the names of what is adapted and the adapter's name in those of adapters.
W + (B @ A) * alpha / r is the definition (peft/tuners/lora/layer.py, merge and get_delta_weight; DoRA: peft/tuners/lora/variants.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ._contents import Contents, Location, StoredTensor, agreed, leaves
from ._safe_pickle import RefusedPickleError

__all__ = ["Adapted", "has_adapters"]

_MERGE = "load it with PEFT, and save merge_and_unload().state_dict()"
_WRAPPED = "base_model.model."
_LORA = re.compile(
    r"(?P<path>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.(?P<rest>.+))?$"
)
_SAVED = re.compile(r"(?P<path>.+)\.(?P<part>modules_to_save|original_module)\.(?P<rest>.+)$")
# Of adapter_config.json: what the merge depends on; what it does not; of all else, known or not, nothing may be set.
_USED = frozenset(
    "peft_type r lora_alpha use_rslora fan_in_fan_out rank_pattern alpha_pattern use_dora lora_bias init_lora_weights".split()
)
_WITHOUT_EFFECT = frozenset(
    "auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config exclude_modules inference_mode layers_pattern "
    "layers_to_transform lora_dropout lora_ga_config megatron_config megatron_core modules_to_save parent_library peft_version "
    "qalora_group_size revision runtime_config target_modules task_type loftq_config".split()
)
# Others give the weights below the adapter values of their own when it is made.
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal")


def has_adapters(contents: Contents) -> bool:
    return any("lora_" in str(location[-1]) for location, _ in leaves(contents.tree))


class Adapted:
    """The merged weights as Contents: those of `base`, changed by the adapter in `given`; without `base`, `given` has both."""

    def __init__(self, name: str, given: Contents, config: Any, base: Contents | None) -> None:
        self.name = name
        self._config = _checked(config, wrapped=base is None)
        parts: dict[str, dict[str, StoredTensor]] = {}
        whole: dict[str, Any] = {}  # weights that were trained beside, or all of a wrapped model
        replaced: dict[str, Any] = {}
        for location, leaf in leaves(given.tree):
            found = agreed(given, location, leaf) if isinstance(leaf, StoredTensor) else leaf
            own = ".".join(map(str, location)).rpartition(_WRAPPED)[2].replace(".base_layer.", ".")
            adapter, saved = _LORA.match(own), _SAVED.match(own)
            if adapter is not None:
                if not isinstance(found, StoredTensor):
                    raise RefusedPickleError(f"{own} is no tensor")
                part = adapter["part"] + (".bias" if (adapter["rest"] or "").endswith("bias") else "")
                if parts.setdefault(adapter["path"], {}).setdefault(part, found) is not found:
                    raise RefusedPickleError(f"it has several adapters of {adapter['path']}: {_MERGE}")
            elif saved is not None and saved["part"] == "modules_to_save":
                replaced[f"{saved['path']}.{_without_adapter(saved['rest'])}"] = found
            elif saved is None:
                whole[own] = found
        if not parts and not replaced:
            raise RefusedPickleError("it has the configuration of an adapter of PEFT, and no tensors of one")
        if base is None:
            self.tree: dict[Any, Any] = {**whole, **replaced}
        else:
            self.tree = _under_the_adapter(base, [*parts])
            self._replace({**whole, **replaced})
        self._merge(parts)

    def _replace(self, weights: Mapping[str, Any]) -> None:
        """Weights that the adapter has whole: modules_to_save, biases, resized embeddings."""
        for name, leaf in weights.items():
            self.tree[name] = leaf

    def _merge(self, parts: Mapping[str, Mapping[str, StoredTensor]]) -> None:
        for path, found in parts.items():
            name = f"{path}.weight"
            base = self.tree.get(name)
            if not isinstance(base, StoredTensor):
                raise RefusedPickleError(
                    f"its adapter changes {name}, which the weights do not have: give the model that it was trained on"
                )
            factor = self._factor(path, found)
            self.tree[name] = StoredTensor(
                base.shape, torch.float32, _merged(name, base, found, factor, bool(self._config.get("fan_in_fan_out")))
            )
            if "lora_B.bias" in found:
                self._add_bias(f"{path}.bias", found["lora_B.bias"], factor)

    def _add_bias(self, name: str, change: StoredTensor, factor: float) -> None:
        bias = self.tree.get(name)
        if not isinstance(bias, StoredTensor) or bias.shape != change.shape:
            raise RefusedPickleError(f"its adapter changes {name}, which the weights do not have in that shape")
        self.tree[name] = StoredTensor(
            bias.shape, torch.float32, lambda: bias.read().float() + change.read().float() * factor
        )

    def _factor(self, path: str, found: Mapping[str, StoredTensor]) -> float:
        """alpha / r, or alpha / sqrt(r), of one weight; r as the configuration and the tensors have it."""
        first = found.get("lora_A") or found.get("lora_embedding_A")
        rank = self._of_pattern("rank_pattern", path, self._config.get("r"))
        alpha = self._of_pattern("alpha_pattern", path, self._config.get("lora_alpha"))
        if first is None or not first.shape or type(rank) is not int or rank != first.shape[0] or rank < 1:
            raise RefusedPickleError(
                f"adapter_config.json gives {path} the rank {str(rank)[:20]}, and its tensors have another"
            )
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise RefusedPickleError(f"adapter_config.json gives {path} no usable lora_alpha")
        return alpha / math.sqrt(rank) if self._config.get("use_rslora") else alpha / rank

    def _of_pattern(self, key: str, path: str, otherwise: Any) -> Any:
        """What the first pattern that ends the path says (peft's get_pattern_key)."""
        for pattern, value in (self._config.get(key) or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", path):
                return value
        return otherwise

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        """Nothing: what is merged was compared with its library's reading when it was read."""
        return [None] * len(locations)


def _checked(config: Any, *, wrapped: bool) -> Mapping[str, Any]:
    """The configuration, if the merge that it defines is the one that is known here; `wrapped` weights are as training left them."""
    if not isinstance(config, Mapping):
        raise RefusedPickleError("adapter_config.json is no configuration of PEFT")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise RefusedPickleError(
            f"it is an adapter of PEFT of the type {str(kind)[:40]}, and only LORA is merged here: {_MERGE}"
        )
    other = next((k for k, v in config.items() if k not in _USED | _WITHOUT_EFFECT and v), None)
    if other is not None:
        raise RefusedPickleError(f"adapter_config.json has {other[:40]}, which is not merged here: {_MERGE}")
    if not wrapped and config.get("init_lora_weights") not in _PLAIN_INIT:
        raise RefusedPickleError(
            f"its adapter was made with init_lora_weights={str(config['init_lora_weights'])[:40]!r}, which changes the weights below it: {_MERGE}"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, Mapping) or not all(
            re.fullmatch(r"\^?[\w.]{1,200}", pattern) for pattern in patterns
        ):
            raise RefusedPickleError(
                f"adapter_config.json has a {key} of regular expressions, which are not read: {_MERGE}"
            )
    return config


def _without_adapter(rest: str) -> str:
    """ "default.weight" and "weight" both as "weight"."""
    return rest.partition(".")[2] if "." in rest else rest


def _under_the_adapter(base: Contents, paths: Sequence[str]) -> dict[str, Any]:
    """The weights below by the names that the adapter has for them: either may lack a beginning that the other has."""
    found = {
        ".".join(map(str, location)): agreed(base, location, leaf) if isinstance(leaf, StoredTensor) else leaf
        for location, leaf in leaves(base.tree)
    }
    if not paths or all(f"{path}.weight" in found for path in paths):
        return found
    wanted = f"{paths[0]}.weight"
    changes: list[tuple[str, str]] = []  # what the adapter's names have in front, and what those below
    changes += [(wanted[: len(wanted) - len(name)], "") for name in found if wanted.endswith(f".{name}")]
    changes += [("", name[: len(name) - len(wanted)]) for name in found if name.endswith(f".{wanted}")]
    fitting = [
        (more, less)
        for more, less in dict.fromkeys(changes)
        if all(less + f"{path}.weight".removeprefix(more) in found for path in paths)
    ]
    if len(fitting) != 1:
        raise RefusedPickleError(
            f"its adapter changes {wanted}, which the weights {'have several of' if fitting else 'do not have'}: give the model that it was "
            "trained on"
        )
    more, less = fitting[0]
    return {more + name[len(less) :] if name.startswith(less) else name: leaf for name, leaf in found.items()}


def _merged(name: str, base: StoredTensor, found: Mapping[str, StoredTensor], factor: float, swapped: bool) -> Any:
    """What reads the merged weight. Shapes are compared here, before anything is computed."""
    embedding = "lora_embedding_A" in found
    one, two = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    first, second, size = found.get(one), found.get(two), found.get("lora_magnitude_vector")
    misfit = RefusedPickleError(f"the adapter of {name} does not have the shape of the weight, {base.shape}")
    if first is None or second is None or len(first.shape) != len(second.shape) or first.shape[0] != second.shape[1]:
        raise misfit
    product = (second.shape[0], first.shape[1], *first.shape[2:])
    if len(product) == 2 and len(base.shape) == 2:
        fits = [flip for flip in (False, True) if (product[::-1] if flip else product) == base.shape]
        if not fits:
            raise misfit
        # (out, in) of Linear, (in, out) of transformers' Conv1D and of embeddings; where both fit, the configuration tells.
        flip = embedding or (fits[0] if len(fits) == 1 else swapped)
        if flip not in fits:
            raise misfit
    elif len(product) in (3, 4, 5) and product == base.shape and not embedding and set(second.shape[2:]) == {1}:
        flip = False
    else:
        raise misfit
    if size is not None and (embedding or len(product) != 2 or size.shape != (product[0],)):
        raise RefusedPickleError(f"the adapter of {name} is a DoRA of a layer that is not merged here: {_MERGE}")

    def read() -> torch.Tensor:
        weight, change = base.read().float(), _product(first.read().float(), second.read().float()) * factor
        change = change.T if flip else change
        if size is None:
            return weight + change
        merged = weight + change
        norm = torch.linalg.norm(merged.T if flip else merged, dim=1)
        scale = (size.read().float() / norm).view(-1, 1)
        result: torch.Tensor = (scale.T if flip else scale) * merged
        return result

    return read


def _product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    if first.ndim == 2:
        return second @ first
    if first.ndim == 4 and first.shape[2:] == (1, 1):
        return (second.squeeze(3).squeeze(2) @ first.squeeze(3).squeeze(2)).unsqueeze(2).unsqueeze(3)
    convolve: Any = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[first.ndim]
    merged: torch.Tensor = convolve(first.transpose(0, 1), second).transpose(0, 1)
    return merged

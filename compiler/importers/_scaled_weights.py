"""Weights of 8 bits with a scale beside them, as compressed-tensors ("int-quantized", "float-quantized", "naive-quantized"), LLM-Compressor, vLLM
and the FP8 checkpoints of DeepSeek and transformers write them; and weights of which a bit mask says where their numbers belong
("sparse-bitmask", "sparse-24-bitmask").

`weight` is int8 or an 8-bit float; `weight_scale` (or `weight_scale_inv`, which is multiplied by as well) has one number for all, for each
row, for blocks of a row, or for blocks of both axes. What a run should do with activations (`input_scale`) is left out: they stay floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..ir import Encoded
from ._contents import StoredTensor
from ._safe_pickle import RefusedPickleError

__all__ = ["EIGHT_BITS", "scaled", "spread"]

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
EIGHT_BITS = (torch.int8, *_FP8)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def spread(name: str, parts: Mapping[str, StoredTensor]) -> StoredTensor:
    """The weight whose numbers, row by row, are `compressed` where the bits of `bitmask` are set, and 0 elsewhere.

    Raises RefusedPickleError where the parts do not fit each other.
    """
    values, mask, extents = (parts.get(part) for part in ("compressed", "bitmask", "shape"))
    if values is None or mask is None or extents is None or mask.dtype != torch.uint8:
        raise _unknown(name)
    if not 1 <= math.prod(extents.shape) <= 8 or extents.dtype not in (torch.int32, torch.int64):
        raise _unknown(name)
    shape = tuple(int(n) for n in extents.read().reshape(-1).tolist())
    if min(shape) < 1 or math.prod(mask.shape) != math.prod(shape[:-1]) * -(-shape[-1] // 8):
        raise _unknown(name)

    def read() -> torch.Tensor:
        bits = np.unpackbits(mask.read().numpy().reshape(-1, -(-shape[-1] // 8)), axis=1, bitorder="little")
        places = torch.from_numpy(bits[:, : shape[-1]].astype(bool).reshape(shape))
        kept = values.read().reshape(-1)
        if int(places.sum()) != len(kept):
            raise _unknown(name)
        raw = kept.view(torch.uint8) if kept.dtype in _FP8 else kept
        found = torch.zeros(shape, dtype=raw.dtype)
        found[places] = raw
        return found.view(values.dtype)

    return StoredTensor(shape, values.dtype, read)


def scaled(name: str, parts: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> StoredTensor:
    """The floats that `weight` of 8 bits stands for; `config` is the folder's quantization_config.

    Raises RefusedPickleError where the parts do not fit each other.
    """
    weight, scale = parts.get("weight"), parts.get("weight_scale", parts.get("weight_scale_inv"))
    zero, order = parts.get("weight_zero_point"), parts.get("weight_g_idx")
    if weight is None or scale is None or scale.dtype not in _FLOATS or not math.prod(weight.shape):
        raise _unknown(name)
    count, shape = math.prod(scale.shape), weight.shape
    rows = (shape[0], *[1] * (len(shape) - 1))
    extents = [1] * len(shape) if count == 1 else rows if scale.shape == shape[:1] else scale.shape
    blocks = _blocks(shape, extents, config)
    if blocks is None or (zero is not None and (zero.shape != scale.shape or zero.dtype != weight.dtype)):
        raise _unknown(name)
    if order is not None and (len(shape) != 2 or order.shape != shape[1:]):
        raise _unknown(name)

    def stored() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
        """Values; scales and zero points; and which of these each index of an axis has."""
        which = [torch.arange(n) // block for n, block in zip(shape, blocks)]
        if order is not None and extents[-1] > 1:
            which[-1] = order.read().long()
            if not 0 <= int(which[-1].min()) <= int(which[-1].max()) < extents[-1]:
                raise _unknown(name)
        points = None if zero is None else zero.read().reshape(list(extents))
        return weight.read(), scale.read().float().reshape(list(extents)), points, which

    def read() -> torch.Tensor:
        values, factors, points, which = stored()
        found = values.float()
        if points is not None:
            found -= _chosen(points.float(), which)
        return found * _chosen(factors, which)

    def encoded() -> Encoded | None:
        values, factors, points, which = stored()
        axis = next((a for a, block in enumerate(blocks) if 1 < block < shape[a]), 0)
        others = all(block in (1, shape[a]) for a, block in enumerate(blocks) if a != axis)
        usual = all(torch.equal(each, torch.arange(n) // b) for each, n, b in zip(which, shape, blocks))
        if values.dtype != torch.int8 or not others or not usual:
            return None
        own = None if points is None else points.numpy()
        return Encoded(values.numpy(), factors.numpy(), own, axis, blocks[axis] if extents[axis] > 1 else 1)

    return StoredTensor(shape, torch.float32, read, encoded)


def _chosen(numbers: torch.Tensor, which: Sequence[torch.Tensor]) -> torch.Tensor:
    for axis, each in enumerate(which):
        if numbers.shape[axis] > 1:
            numbers = numbers.index_select(axis, each)
    return numbers


def _blocks(shape: Sequence[int], extents: Sequence[int], config: Mapping[str, Any]) -> list[int] | None:
    """How many numbers of each axis share a scale; None where that is not known."""
    if len(extents) != len(shape):
        return None
    told = _told(config)
    given = told if len(told) == len(shape) else [0] * (len(shape) - len(told)) + told
    found = []
    for n, count, block in zip(shape, extents, given):
        if count == 1:
            found.append(n)
        elif count == n:
            found.append(1)
        elif block and -(-n // block) == count:
            found.append(block)
        elif not block and count and n % count == 0:
            found.append(n // count)
        else:
            return None
    return found


def _told(config: Mapping[str, Any]) -> list[int]:
    """The blocks that a folder's quantization_config gives for the last axes; none where it gives none, or several."""
    schemes = config.get("config_groups")
    weights = [
        each["weights"]
        for each in (schemes.values() if isinstance(schemes, Mapping) else ())
        if isinstance(each, Mapping) and isinstance(each.get("weights"), Mapping)
    ]
    found = [config.get("weight_block_size"), *(each.get("block_structure") for each in weights)]
    found += [[each["group_size"]] for each in weights if (each.get("group_size") or 0) != 0]
    known = [each for each in found if isinstance(each, list) and each and all(type(n) is int and n > 0 for n in each)]
    return known[0] if known and all(each == known[0] for each in known) else []


def _unknown(name: str) -> RefusedPickleError:
    return RefusedPickleError(
        f"{name} is stored in 8 bits with scales, or with a bit mask, whose parts do not fit each other: "
        "give the checkpoint that it was made from"
    )

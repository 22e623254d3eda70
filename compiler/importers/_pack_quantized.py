"""Weights in the form "pack-quantized" of compressed-tensors (LLM-Compressor, vLLM), as the floats that they stand for, and how those are encoded.

Integers of 1 to 8 bits stand one behind the other in words of 32, more by 2^(bits - 1) than they are: of weights by rows, of zero points by
columns (compressors/pack_quantized/helpers.py). Floats are products in float32, where the library rounds to the scales' type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..ir import Encoded
from ._contents import StoredTensor
from ._safe_pickle import RefusedPickleError

__all__ = ["pack_quantized"]

Codes = npt.NDArray[np.uint8]


def pack_quantized(name: str, parts: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> StoredTensor:
    """The weight [outputs, inputs] of `weight_packed` and what stands beside it; `config` is the folder's quantization_config.

    Raises RefusedPickleError where the parts do not fit each other.
    """
    bits, group = _scheme(name, config)
    packed, scale, extents = (parts.get(f"weight_{part}") for part in ("packed", "scale", "shape"))
    zero, order = parts.get("weight_zero_point"), parts.get("weight_g_idx")
    if packed is None or scale is None or extents is None:
        raise _unknown(name)
    if math.prod(extents.shape) != 2 or extents.dtype not in (torch.int32, torch.int64):
        raise _unknown(name)
    outputs, inputs = (int(n) for n in extents.read().reshape(-1).tolist())
    groups = math.prod(scale.shape[1:])
    block = inputs if groups == 1 else group
    fits = (
        outputs > 0
        and inputs > 0
        and packed.dtype == torch.int32
        and packed.shape == (outputs, -(-inputs * bits // 32))
        and scale.shape[:1] == (outputs,)
        and len(scale.shape) <= 2
        and scale.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and block > 0
        and groups == -(-inputs // block)
        and (zero is None or (zero.dtype == torch.int32 and zero.shape == (-(-outputs * bits // 32), groups)))
        and (order is None or order.shape == (inputs,))
    )
    if not fits:
        raise _unknown(name)
    assert packed is not None and scale is not None

    def stored() -> tuple[Encoded, npt.NDArray[Any]]:
        """As if its groups were blocks, and which group each input is in."""
        values = _unpacked(packed.read(), bits, inputs)
        points = np.full((outputs, groups), 1 << (bits - 1), np.uint8)
        if zero is not None:
            points = np.ascontiguousarray(_unpacked(zero.read().T, bits, outputs).T)
        blocks = np.arange(inputs) // block
        which = blocks if order is None else order.read().numpy()
        if which.min() < 0 or which.max() >= groups:
            raise _unknown(name)
        factors = scale.read().float().reshape(outputs, groups).numpy()
        return Encoded(values, factors, points, axis=1, block=block), which

    def read() -> torch.Tensor:
        found, which = stored()
        centred = found.values.astype(np.float32) - found.zeros.astype(np.float32)[:, which]
        return torch.from_numpy(centred * found.scale[:, which])

    def encoded() -> Encoded | None:
        found, which = stored()
        return found if np.array_equal(which, np.arange(inputs) // block) else None

    return StoredTensor((outputs, inputs), torch.float32, read, encoded)


def _scheme(name: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """How many bits a number has, and how many a group; 0: a row."""
    schemes = config.get("config_groups")
    found = [
        (weights.get("num_bits"), weights.get("group_size") or 0)
        for scheme in (schemes.values() if isinstance(schemes, Mapping) else ())
        if isinstance(scheme, Mapping) and isinstance(weights := scheme.get("weights"), Mapping)
    ]
    if config.get("quant_method") != "compressed-tensors" or not found or any(each != found[0] for each in found):
        raise _unknown(name)
    bits, group = found[0]
    if type(bits) is not int or not 1 <= bits <= 8 or type(group) is not int:
        raise _unknown(name)
    return bits, group


def _unpacked(words: torch.Tensor, bits: int, count: int) -> Codes:
    """The first `count` integers of each row of words."""
    array = np.ascontiguousarray(words.numpy()).astype("<i4")
    stream = np.unpackbits(array.view(np.uint8), axis=-1, bitorder="little")[:, : count * bits]
    places = np.packbits(stream.reshape(len(array), count, bits), axis=-1, bitorder="little")
    return np.ascontiguousarray(places[..., 0])


def _unknown(name: str) -> RefusedPickleError:
    return RefusedPickleError(
        f"{name} was quantized by compressed-tensors in a form that is not known: give the checkpoint that it was made from"
    )

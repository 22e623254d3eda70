"""Weights that bitsandbytes, GPTQ, AWQ or compressed-tensors (_pack_quantized.py, _scaled_weights.py) quantized, as the floats that they stand for, and how those are encoded.

bitsandbytes keeps what it needs among the tensors (functional.py, dequantize_4bit and int8_vectorwise_dequant); of GPTQ and AWQ the folder's
config.json or quantize_config.json has the bits. Integers are packed in words of 32 bits: GPTQ's of weights by rows, its zero points by
columns and less by one (format "gptq"; "gptq_v2" has them as they are), AWQ's both by columns, in the order 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..ir import Encoded
from ._contents import Contents, Location, StoredTensor, agreed, leaves
from ._pack_quantized import pack_quantized
from ._safe_pickle import RefusedPickleError
from ._scaled_weights import EIGHT_BITS, scaled, spread

__all__ = ["Dequantized", "is_quantized", "layer_of"]

_STATE = "weight.quant_state.bitsandbytes__"
_FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word each of eight columns is
_LARGEST_STATE = 1 << 16
_PARTS = frozenset(
    "SCB weight_format qweight qzeros scales g_idx weight weight_packed weight_scale weight_shape weight_zero_point weight_g_idx "
    "weight_scale_inv compressed bitmask shape row_offsets input_scale input_zero_point".split()
)
_INT8_STEP = 0.007874015718698502  # 1 / 127, as LLM.int8() has it


def is_quantized(contents: Contents) -> bool:
    return any(layer_of(str(location[-1])) is not None for location, _ in leaves(contents.tree))


def layer_of(name: str) -> str | None:
    """What the names of a quantized layer begin with, if this is the one that tells that it is."""
    last = name.rpartition(".")[2]
    if last in ("SCB", "qweight", "weight_packed", "weight_scale", "weight_scale_inv", "bitmask"):
        return name[: len(name) - len(last)]
    return name[: name.index(_STATE)] if _STATE in name else None


class Dequantized:
    """Those contents with floats in the place of what was quantized; `config` is the quantization_config of their folder."""

    def __init__(self, contents: Contents, config: Any) -> None:
        self.name = contents.name
        self._config = config if isinstance(config, Mapping) else {}
        found: dict[str, Any] = {
            ".".join(map(str, location)): agreed(contents, location, leaf) if isinstance(leaf, StoredTensor) else leaf
            for location, leaf in leaves(contents.tree)
        }
        prefixes = [layer_of(name) for name, leaf in found.items() if isinstance(leaf, StoredTensor)]
        layers: dict[str, dict[str, StoredTensor]] = {prefix: {} for prefix in prefixes if prefix is not None}
        for name, leaf in found.items():
            prefix, part = _split(name)
            if part and prefix in layers and isinstance(leaf, StoredTensor):
                layers[prefix][part] = leaf
        for prefix, parts in layers.items():
            if "weight" in parts and parts["weight"].dtype.itemsize > 1:
                continue  # floats, with something beside them that is called a scale
            for part in parts:
                del found[prefix + part]
            found[prefix + "weight"] = self._dequantized(prefix + "weight", parts)
        self.tree: dict[Any, Any] = found

    def _dequantized(self, name: str, parts: Mapping[str, StoredTensor]) -> StoredTensor:
        if "SCB" in parts:
            return _int8(name, parts)
        if "qweight" in parts:
            method, bits = self._config.get("quant_method", "gptq"), self._config.get("bits", self._config.get("w_bit"))
            if method == "awq":
                return _awq(name, parts, bits, str(self._config.get("version", "gemm")).lower())
            if method == "gptq":
                return _gptq(name, parts, bits, self._config.get("checkpoint_format", "gptq"))
            raise RefusedPickleError(
                f"{name} was quantized by {str(method)[:40]}: give the checkpoint that it was made from"
            )
        if "weight_packed" in parts:
            return pack_quantized(name, parts, self._config)
        if "bitmask" in parts:
            parts = {**parts, "weight": spread(name, parts)}
            if parts["weight"].dtype not in EIGHT_BITS:
                return parts["weight"]
        if "weight_scale" in parts or "weight_scale_inv" in parts:
            return scaled(name, parts, self._config)
        return _four_bits(name, parts)

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        """Nothing: what the floats are made of was compared with its library's reading when it was read."""
        return [None] * len(locations)


def _split(name: str) -> tuple[str, str]:
    """The layer's beginning, and which of its parts this is (as "weight.absmax"); "" if it is none."""
    words = name.split(".")
    count = 2 if len(words) > 1 and words[-2] == "weight" else 3 if words[-3:-1] == ["weight", "quant_state"] else 1
    part = ".".join(words[-count:])
    known = part in _PARTS or part.startswith("weight.")
    return (name[: len(name) - len(part)], part) if known else ("", "")


def _of_unknown_form(name: str) -> RefusedPickleError:
    return RefusedPickleError(
        f"{name} was quantized in a form that is not known: give the checkpoint that it was made from"
    )


def _int8(name: str, parts: Mapping[str, StoredTensor]) -> StoredTensor:
    """LLM.int8(): a scale for each row."""
    weight, scale, form = parts.get("weight"), parts["SCB"], parts.get("weight_format")
    if weight is None or weight.dtype != torch.int8 or len(weight.shape) != 2 or scale.shape != weight.shape[:1]:
        raise _of_unknown_form(name)

    def read() -> torch.Tensor:
        if form is not None and form.read().reshape(-1).tolist() != [0]:  # other layouts are those of GPUs
            raise _of_unknown_form(name)
        return weight.read() * scale.read().float().view(-1, 1) * _INT8_STEP

    def encoded() -> Encoded:
        return Encoded(weight.read().numpy(), (scale.read().float().view(-1, 1) * _INT8_STEP).numpy())

    return StoredTensor(weight.shape, torch.float32, read, encoded)


def _four_bits(name: str, parts: Mapping[str, StoredTensor]) -> StoredTensor:
    """NF4 and FP4: codes of a table, a scale for each block; the scales may be codes of another table."""
    weight, scales, table = parts.get("weight"), parts.get("weight.absmax"), parts.get("weight.quant_map")
    state = next((value for key, value in parts.items() if key.startswith(_STATE)), None)
    if (
        weight is None
        or scales is None
        or table is None
        or state is None
        or table.shape != (16,)
        or math.prod(state.shape) > _LARGEST_STATE
    ):
        raise _of_unknown_form(name)
    try:
        config = json.loads(bytes(state.read().to(torch.uint8).reshape(-1).tolist()))
        shape, block, dtype = config["shape"], config["blocksize"], _FLOATS[config["dtype"]]
        good = (
            isinstance(shape, list)
            and all(type(n) is int and 0 <= n < 2**48 for n in shape)
            and type(block) is int
            and block > 0
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good or weight.dtype != torch.uint8 or math.prod(weight.shape) != -(-math.prod(shape) // 2):
        raise _of_unknown_form(name)
    count = math.prod(shape)
    blocks = -(-count // block)
    if scales.shape != (blocks,):
        raise _of_unknown_form(name)

    def read() -> torch.Tensor:
        packed = weight.read().reshape(-1)
        codes = torch.stack([packed >> 4, packed & 15], 1).reshape(-1)[:count]
        factors = _scales(name, parts, scales.read(), config)
        values = table.read().float()[codes.int()] * factors.repeat_interleave(min(block, count))[:count]
        return values.to(dtype).reshape(shape)

    return StoredTensor(tuple(shape), dtype, read)


def _scales(
    name: str, parts: Mapping[str, StoredTensor], scales: torch.Tensor, config: Mapping[str, Any]
) -> torch.Tensor:
    if "nested_blocksize" not in config:
        if scales.dtype != torch.float32:
            raise _of_unknown_form(name)
        return scales
    outer, table = parts.get("weight.nested_absmax"), parts.get("weight.nested_quant_map")
    block, offset = config["nested_blocksize"], config.get("nested_offset")
    if (
        outer is None
        or table is None
        or table.shape != (256,)
        or scales.dtype != torch.uint8
        or not isinstance(offset, float)
    ):
        raise _of_unknown_form(name)
    if type(block) is not int or block <= 0 or outer.shape != (-(-len(scales) // block),):
        raise _of_unknown_form(name)
    factors = outer.read().float().repeat_interleave(min(block, len(scales)))[: len(scales)]
    found: torch.Tensor = table.read().float()[scales.int()] * factors + offset
    return found


def _unpacked(words: torch.Tensor, bits: int, order: Sequence[int]) -> torch.Tensor:
    """The integers in 32-bit words, of each word in that order, as another last axis."""
    shifts = torch.tensor([bits * place for place in order], dtype=torch.int32)
    found: torch.Tensor = (words.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return found


@dataclass(frozen=True)
class _Columns:
    """Integers [inputs, outputs], zero points and scales [groups, outputs], and which group each input is in."""

    codes: torch.Tensor
    points: torch.Tensor
    scales: torch.Tensor
    which: torch.Tensor

    def floats(self) -> torch.Tensor:
        """[outputs, inputs]"""
        return ((self.codes - self.points[self.which]) * self.scales[self.which]).T.contiguous()

    def encoded(self) -> Encoded | None:
        """[outputs, inputs]; None where groups are no blocks of inputs (GPTQ's act-order)."""
        inputs, block = len(self.which), -(-len(self.which) // len(self.scales))
        if not torch.equal(self.which, torch.arange(inputs) // block):
            return None
        values, zero = (part.T.contiguous().numpy().astype(np.uint8) for part in (self.codes, self.points))
        return Encoded(values, self.scales.T.contiguous().numpy(), zero, axis=1, block=block)


def _of_columns(shape: tuple[int, int], stored: Callable[[], _Columns]) -> StoredTensor:
    return StoredTensor(shape, torch.float32, lambda: stored().floats(), lambda: stored().encoded())


def _gptq(name: str, parts: Mapping[str, StoredTensor], bits: Any, form: Any) -> StoredTensor:
    weight, zeros, scales, groups = (parts.get(key) for key in ("qweight", "qzeros", "scales", "g_idx"))
    if (
        bits not in (2, 4, 8)
        or form not in ("gptq", "gptq_v2")
        or weight is None
        or zeros is None
        or scales is None
        or groups is None
    ):
        raise _of_unknown_form(name)
    per = 32 // bits
    if (
        any(part.dtype != torch.int32 for part in (weight, zeros, groups))
        or not len(weight.shape) == len(zeros.shape) == len(scales.shape) == 2
    ):
        raise _of_unknown_form(name)
    inputs, outputs = weight.shape[0] * per, weight.shape[1]
    if groups.shape != (inputs,) or scales.shape != (zeros.shape[0], outputs) or zeros.shape[1] * per != outputs:
        raise _of_unknown_form(name)

    def stored() -> _Columns:
        codes = _unpacked(weight.read(), bits, range(per)).permute(0, 2, 1).reshape(inputs, outputs)
        points = _unpacked(zeros.read(), bits, range(per)).reshape(-1, outputs)
        which = groups.read().long()
        if len(which) and not 0 <= int(which.min()) <= int(which.max()) < scales.shape[0]:
            raise _of_unknown_form(name)
        if form == "gptq":
            if bool((points == 2**bits - 1).any()):
                raise RefusedPickleError(
                    f"{name} has zero points that versions of GPTQ read in two ways: give the checkpoint that it was made from"
                )
            points = points + 1
        return _Columns(codes, points, scales.read().float(), which)

    return _of_columns((outputs, inputs), stored)


def _awq(name: str, parts: Mapping[str, StoredTensor], bits: Any, form: str) -> StoredTensor:
    weight, zeros, scales = (parts.get(key) for key in ("qweight", "qzeros", "scales"))
    if bits != 4 or form != "gemm" or weight is None or zeros is None or scales is None:
        raise _of_unknown_form(name)
    if (
        weight.dtype != torch.int32
        or zeros.dtype != torch.int32
        or not len(weight.shape) == len(zeros.shape) == len(scales.shape) == 2
    ):
        raise _of_unknown_form(name)
    inputs, outputs, count = weight.shape[0], weight.shape[1] * 8, scales.shape[0]
    if scales.shape != (count, outputs) or zeros.shape != (count, weight.shape[1]) or count == 0 or inputs % count:
        raise _of_unknown_form(name)

    def stored() -> _Columns:
        codes = _unpacked(weight.read(), 4, _AWQ_ORDER).reshape(inputs, outputs)
        points = _unpacked(zeros.read(), 4, _AWQ_ORDER).reshape(count, outputs)
        return _Columns(codes, points, scales.read().float(), torch.arange(inputs) // (inputs // count))

    return _of_columns((outputs, inputs), stored)

"""torch's dtypes and tensors in the words of TVM and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ._registry import NotConvertible

__all__ = ["is_float", "to_numpy", "tvm_dtype"]

_NAMES: dict[torch.dtype, str] = {
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}


def tvm_dtype(dtype: torch.dtype) -> str:
    if dtype not in _NAMES:
        raise NotConvertible(f"dtype {str(dtype).removeprefix('torch.')}")
    return _NAMES[dtype]


def is_float(dtype: str) -> bool:
    return "float" in dtype


def to_numpy(tensor: torch.Tensor, *, copy: bool = True) -> np.ndarray[Any, Any]:
    """A copy of the tensor's values (or, where it can be, a view of them), dense and row-major; bfloat16 as ml_dtypes.bfloat16, complex ones as pairs [..., 2]."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise NotConvertible(f"a tensor of layout {tensor.layout}")
    dense = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    if dense.is_complex():
        dense = torch.view_as_real(dense)
    if dense.dtype == torch.bfloat16:
        import ml_dtypes

        brain: np.ndarray[Any, Any] = dense.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
        return brain
    return np.array(dense.numpy(), copy=True) if copy else dense.numpy()

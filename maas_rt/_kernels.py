"""The library's kernels, for the compiler (what exists, packing) and for tests (running one)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import maas_rt._native as _native

Attributes = Mapping[str, int | float | str | Sequence[int] | Sequence[float]]


def describe() -> dict[str, Any]:
    """The registry: contracts, their packings and kernels, as the library's JSON says it."""
    registry: dict[str, Any] = json.loads(_native.kernels_json())
    return registry


def pack(contract: str, packing: str, weight: NDArray[Any], attrs: Attributes | None = None) -> bytes:
    """A dense float32 weight as `packing` stores it; portable code, the same bytes on every CPU.

    Raises:
        InvalidArgumentError: no such contract or packing, or a weight of the wrong shape.
    """
    return _native.kernel_pack(contract, packing, np.ascontiguousarray(weight), dict(attrs or {}))


def run(
    contract: str,
    inputs: Sequence[NDArray[Any] | bytes | None],
    out_shapes: Sequence[Sequence[int] | tuple[Sequence[int], Any]],
    attrs: Attributes | None = None,
    isa: str | None = None,
    threads: int = 1,
) -> list[NDArray[Any]]:
    """Runs one kernel contract and returns its outputs.

    Args:
        inputs: in the contract's order; None is an absent optional input, bytes are a packed weight.
        out_shapes: one shape for each output, or (shape, dtype) where that is not float32.
        attrs: ints, floats, text, or lists of the first two.
        isa: None for what a load would bind, "reference" for the scalar oracle, else one of `isas`

    Raises:
        InvalidArgumentError: shapes or attributes that the contract refuses. TargetError: this CPU or build lacks isa.
    """
    arrays = [np.frombuffer(x, np.uint8) if isinstance(x, bytes) else x for x in inputs]
    outputs = [_output(shape) for shape in out_shapes]
    _native.kernel_run(contract, isa, arrays, outputs, dict(attrs or {}), threads)
    return outputs


def _output(shape: Sequence[Any]) -> NDArray[Any]:
    if len(shape) == 2 and not isinstance(shape[0], (int, np.integer)):
        return np.empty(tuple(shape[0]), shape[1])
    return np.empty(tuple(shape), np.float32)


def cpu_count() -> int:
    """CPUs that this process may use."""
    return _native.cpu_count()


def cpu_isa() -> str:
    """The instruction set that kernels are bound to: "avx512", "avx2" or "scalar"; on AArch64 "i8mm", "dotprod", "neon" or "scalar"."""
    return _native.cpu_isa()


def isas() -> list[str]:
    """The instruction sets that this CPU and MAAS_RT_ISA allow, best first: what `run` takes where the contract has such a kernel."""
    allowed: list[str] = describe()["isas"]
    return allowed


def machine_rates(threads: int = 1) -> tuple[float, float]:
    """GFLOP/s of float32 multiply-adds and GB/s read from memory that so many threads reach at most; takes about 50 ms.

    Raises:
        InvalidArgumentError: fewer than one thread, or more than the process may use.
    """
    return _native.machine_rates(threads)


def cpu_level() -> str:
    """The named level of this CPU: "x86-64-v3", "x86-64-v2", "x86-64"; "aarch64-i8mm", "aarch64-dotprod", "aarch64"."""
    return _native.cpu_level()

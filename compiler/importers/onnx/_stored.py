"""Element types that no arithmetic knows: float8, float4, int4, uint4, int2, uint2. They are stored, moved, and converted.

Inside a function such a tensor is one of uint8 or int8, an element each: the code of a float8 or float4, the number of an integer. A
run gives and takes the type itself, a byte an element (maas_rt.h), which is a view of the same bytes; the unused high bits of what a
run gives are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from tvm import tirx

__all__ = ["STORED", "Format", "decoded", "encode_float8", "encode_scale", "formats", "from_storage", "is_code", "storage", "wrap_integer"]  # fmt: skip

# Type -> what holds it inside a function.
STORED: dict[str, str] = {
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
    "float4_e2m1fn": "uint8",
    "int4": "int8",
    "uint4": "uint8",
    "int2": "int8",
    "uint2": "uint8",
}


@dataclass(frozen=True)
class Format:
    """A small binary floating-point format, as the ONNX specification of Cast has it."""

    mantissa: int  # bits of it
    emin: int  # exponent of the smallest normal number
    top: int  # code of the largest finite number
    nan: int  # code of NaN, without sign
    over: int  # code of what is beyond the largest number, without saturation
    signed_nan: bool  # False: the sign bit alone is NaN, and there is no negative zero
    sign: int = 0x80


formats = {
    "float8_e4m3fn": Format(3, -6, 0x7E, 0x7F, 0x7F, True),
    "float8_e4m3fnuz": Format(3, -7, 0x7F, 0x80, 0x80, False),
    "float8_e5m2": Format(2, -14, 0x7B, 0x7E, 0x7C, True),
    "float8_e5m2fnuz": Format(2, -15, 0x7F, 0x80, 0x80, False),
    # No infinity and no NaN: what is too large saturates, and NaN becomes a zero as in ml_dtypes.
    "float4_e2m1fn": Format(1, 0, 0x7, 0x0, 0x7, True, 0x8),
}


def is_code(dtype: str) -> bool:
    """Whether the stored number is a code to look up (float8, float4), not the value itself."""
    return dtype.startswith("float") and dtype in STORED


def storage(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A constant of such a type as what stands for it inside a function."""
    kind = STORED[array.dtype.name]
    return array.view(np.uint8) if is_code(array.dtype.name) else array.astype(kind)


def from_storage(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """The inverse of `storage`."""
    kind = np.dtype(getattr(ml_dtypes, dtype))
    return array.view(kind) if is_code(dtype) else array.astype(kind)


def decoded(dtype: str) -> npt.NDArray[np.float32]:
    """The number of each code, [256]; the high bits of a float4's byte do not count."""
    codes = np.arange(256, dtype=np.uint8)
    if dtype == "float4_e2m1fn":
        codes &= 15
    out: npt.NDArray[np.float32] = codes.view(np.dtype(getattr(ml_dtypes, dtype))).astype(np.float32)
    return out


def _u(value: int) -> Any:
    return tirx.IntImm("uint32", value)


def encode_float8(x: Any, form: Format, saturate: bool) -> Any:
    """The code of a float32, rounded to the nearest (ties to even), as uint8.

    With k = |x| / quantum rounded, where the quantum is that of x's binade or of the subnormal numbers, the code is
    (exponent - emin) * 2**mantissa + k, also where k is rounded up into the next binade.
    """
    bits = tirx.reinterpret("uint32", x)
    magnitude = tirx.bitwise_and(bits, _u(0x7FFFFFFF))
    lowest = _u(127 + form.emin)
    exponent = tirx.max(tirx.shift_right(magnitude, _u(23)), lowest)  # biased, as in float32
    quanta = tirx.reinterpret("float32", tirx.shift_left(_u(254 + form.mantissa) - exponent, _u(23)))
    finite = tirx.Select(
        magnitude < _u(0x7F800000), tirx.reinterpret("float32", magnitude), tirx.FloatImm("float32", 0.0)
    )
    k = tirx.Cast("uint32", tirx.nearbyint(finite * quanta))
    code = tirx.shift_left(exponent - lowest, _u(form.mantissa)) + k
    limit = _u(form.top if saturate else form.over)
    code = tirx.Select(tirx.any(magnitude >= _u(0x7F800000), code > _u(form.top)), limit, code)
    code = tirx.Select(magnitude > _u(0x7F800000), _u(form.nan), code)
    signed = tirx.bitwise_or(code, _u(form.sign))
    if not form.signed_nan:
        signed = tirx.Select(tirx.any(code == _u(0), code == _u(form.nan)), code, signed)
    return tirx.Cast("uint8", tirx.Select(bits >= _u(0x80000000), signed, code))


def encode_scale(x: Any, saturate: bool, rounding: str) -> Any:
    """float32 -> float8_e8m0fnu, a power of two; the sign is dropped. `rounding`: up, down or nearest, as in ONNX's Cast."""
    bits = tirx.reinterpret("uint32", x)
    exponent = tirx.bitwise_and(tirx.shift_right(bits, _u(23)), _u(0xFF))
    fraction = tirx.bitwise_and(bits, _u(0x7FFFFF))
    if rounding == "up":
        raised = fraction > _u(0)
    elif rounding == "nearest":  # a tie goes up, but for the subnormal numbers'
        raised = tirx.any(fraction > _u(0x400000), tirx.all(fraction == _u(0x400000), exponent > _u(0)))
    else:
        raised = tirx.IntImm("bool", 0)
    if saturate:
        raised = tirx.all(raised, exponent < _u(0xFE))
    code = tirx.Select(raised, exponent + _u(1), exponent)
    return tirx.Cast("uint8", tirx.Select(exponent == _u(0xFF), _u(0xFF), code))


def wrap_integer(value: Any, dtype: str) -> Any:
    """An int64 as a stored integer: its low bits."""
    bits = int(dtype.lstrip("uint"))
    low = tirx.bitwise_and(value, tirx.IntImm("int64", (1 << bits) - 1))
    if dtype.startswith("int"):
        half = tirx.IntImm("int64", 1 << (bits - 1))
        low = tirx.bitwise_xor(low, half) - half
    return tirx.Cast(STORED[dtype], low)

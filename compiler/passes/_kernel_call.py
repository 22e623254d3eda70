"""Kernel calls in the IR: the one place that makes and reads `relax.call_dps_packed("mrt.<contract>", ...)`.

The call's arguments are the present tensors in the contract's order, then one `StringImm` with JSON (sorted keys):
`absent` (positions of optional inputs that are not given), `attrs`, `name` (the source operators, for profiles),
`packing` ("" if the kernel takes no packed weights), `hint` (a tuned choice, absent if there is none). Weights are dense constants here; `plan/` packs them. TVM's
passes treat such a call as opaque and leave it alone.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from ..ir._opaque import read_opaque_call

__all__ = [
    "PREFIX",
    "AttrValue",
    "KernelCall",
    "kernel_outputs",
    "make_kernel_call",
    "read_kernel_call",
    "remake_kernel_call",
]

PREFIX = "mrt."
AttrValue = list[int] | list[float] | str
Number = int | float  # numpy's too


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel contract: `args` has None where an optional input is absent, or ends there."""

    contract: str
    args: list[relax.Expr | None]
    attrs: dict[str, AttrValue] = field(default_factory=dict)
    packing: str = ""
    name: str = ""
    hint: str = ""


def make_kernel_call(
    contract: str,
    args: Sequence[relax.Expr | None],
    out: relax.TensorType | Sequence[relax.TensorType],
    attrs: Mapping[str, AttrValue | Number] | None = None,
    *,
    packing: str = "",
    name: str = "",
    hint: str = "",
) -> relax.Call:
    """The call expression. One TensorType in `out` gives a tensor, a sequence of two or more a tuple.

    Attributes are lists of ints, lists of floats, or text; a lone number becomes a list of one.
    """
    given = list(args)
    while given and given[-1] is None:
        given.pop()
    absent = [i for i, arg in enumerate(given) if arg is None]
    present = [arg for arg in given if arg is not None]
    meta = {
        "absent": absent,
        "attrs": {key: _listed(value) for key, value in (attrs or {}).items()},
        "name": name,
        "packing": packing,
        **({"hint": hint} if hint else {}),
    }
    text = tvm.ir.StringImm(json.dumps(meta, sort_keys=True, separators=(",", ":")))
    outs = [out] if isinstance(out, relax.TensorType) else list(out)
    return relax.op.call_dps_packed(PREFIX + contract, relax.Tuple([*present, text]), outs)


def read_kernel_call(expr: relax.Expr | None) -> KernelCall | None:
    """What `make_kernel_call` put into `expr`; None if it is anything else."""
    read = read_opaque_call(expr, PREFIX)
    if read is None:
        return None
    contract, tensors, meta = read
    present, absent = iter(tensors), set(meta["absent"])
    args = [None if i in absent else next(present) for i in range(len(tensors) + len(absent))]
    return KernelCall(contract, args, meta["attrs"], meta["packing"], meta["name"], meta.get("hint", ""))


def remake_kernel_call(call: KernelCall, out: relax.TensorType | Sequence[relax.TensorType]) -> relax.Call:
    """The call expression of a KernelCall."""
    return make_kernel_call(
        call.contract, call.args, out, call.attrs, packing=call.packing, name=call.name, hint=call.hint
    )


def kernel_outputs(call: relax.Call) -> list[relax.TensorType]:
    """The types of the call's outputs, in the contract's order."""
    out = call.ty_args[0]
    return list(out.fields) if isinstance(out, tvm.ir.TupleType) else [out]


def _listed(value: AttrValue | Number) -> AttrValue:
    if isinstance(value, str):
        return value
    items: list[Any] = [value] if isinstance(value, numbers.Real) else list(value)  # type: ignore[arg-type]
    if all(isinstance(item, numbers.Integral) for item in items):
        return [int(item) for item in items]
    return [float(item) for item in items]

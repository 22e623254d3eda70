"""How the weights of a plan are stored: which encodings, how many tensors have each, and what they take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maas_rt._plan import ArgKind, Encoding, Plan, Step, StepKind, Storage, Value

from .._contracts import Contract, contract_of

__all__ = ["stored_weights"]

_FULL = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "int16": 16,
    "int8": 8,
}  # bits of a number in a packing, where the call does not say fewer
_ZEROS = ("zero", "w_zero")  # operands


def stored_weights(plan: Plan) -> list[dict[str, Any]]:
    """An entry for each encoding of what is packed for kernels, the largest first: `bits` of a number, whether it is an integer, `group` (numbers
    of an input that share a scale; absent: all of them), `zero_points`, `scales` ("float16"; absent: float32, or none), `sparse` (what is stored together of it: "1x1", "4x1", "4x4"; "2:4" and its like; absent: dense),
    `tensors`, each counted once whatever reads it, and their `bytes`."""
    found: dict[tuple[tuple[str, Any], ...], dict[int, int]] = {}
    for block in plan.blocks:
        for step in block.steps:
            for encoding, place, size in _packed(plan, step):
                found.setdefault(tuple(sorted(encoding.items())), {})[place] = size
    rows = [{**dict(key), "tensors": len(places), "bytes": sum(places.values())} for key, places in found.items()]
    return sorted(rows, key=lambda row: (-row["bytes"], sorted(row.items())))


def _packed(plan: Plan, step: Step) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The encodings of a step's packed constants, their offsets and sizes."""
    if step.kind != StepKind.KERNEL or not step.packing:
        return
    contract = contract_of(step.target)
    for i in contract.packed:
        if i >= len(step.args) or step.args[i].kind != ArgKind.VALUE:
            continue
        value = plan.values[step.args[i].index]
        if value.storage == Storage.CONSTANT:
            yield _encoding(contract, plan, step, i), value.offset, value.bytes + _indices_bytes(plan, value)


def _indices_bytes(plan: Plan, value: Value) -> int:
    return plan.values[value.base].bytes if value.encoding == Encoding.N_M else 0


def _sparsity(plan: Plan, value: Value) -> str:
    """ "2:4" of what is stored N:M."""
    extents = [[plan.exprs[dim].a for dim in each.dims] for each in (value, plan.values[value.base])]
    (m,) = (dense // stored for dense, stored in zip(*extents, strict=False) if dense != stored)
    return f"{extents[1][-1]}:{m}"


def _encoding(contract: Contract, plan: Plan, step: Step, place: int) -> dict[str, Any]:
    attrs = {attr.key: attr.ints for attr in step.attrs}
    dtype = contract.input(place).dtypes[0]
    value = plan.values[step.args[place].index]
    sparse = "_sparse" in step.packing or value.encoding == Encoding.N_M
    together = "4x4" if dtype == "int8" else f"{(attrs.get('block') or [1])[0]}x1"  # outputs by inputs
    together = _sparsity(plan, value) if value.encoding == Encoding.N_M else together
    given = {
        operand.name: step.args[i]
        for i, operand in enumerate(contract.inputs)
        if i < len(step.args) and step.args[i].kind != ArgKind.ABSENT
    }
    scale = given.get("scale")
    half = scale is not None and scale.kind == ArgKind.VALUE and plan.values[scale.index].dtype_bits == 16
    return {
        "bits": (attrs.get("bits") or [_FULL["int16" if attrs.get("w_wide") else dtype]])[0],
        "integer": "float" not in dtype,
        **({"group": attrs["group"][0]} if attrs.get("group") else {}),
        **({"zero_points": True} if any(name in given for name in _ZEROS) else {}),
        **({"scales": "float16"} if half else {}),
        **({"sparse": together} if sparse else {}),
    }

"""The kernel contracts as the library states them: what stands in `csrc/kernels/<family>/`, and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from maas_rt import _kernels
from maas_rt._errors import CompileError

__all__ = ["CONTRACTS", "Contract", "Operand", "contract_of"]


@dataclass(frozen=True)
class Operand:
    """`dtypes` empty: any, or that of input `like`; `rank` None: any."""

    name: str
    dtypes: tuple[str, ...] = ()
    like: int | None = None
    rank: int | None = None
    optional: bool = False
    packed: bool = False
    bias: bool = False
    residual: bool = False
    batched: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class Contract:
    """One contract: operands in order, and each attribute with its kind, bounds and default (csrc/kernels/contract.h)."""

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: Mapping[str, Mapping[str, Any]] = field(hash=False)
    packings: tuple[str, ...] = ()

    def input(self, i: int) -> Operand:
        return self.inputs[min(i, len(self.inputs) - 1)]

    @cached_property
    def packed(self) -> tuple[int, ...]:
        """Where weights stand that `plan/` packs."""
        return tuple(i for i, operand in enumerate(self.inputs) if operand.packed)

    @cached_property
    def bias(self) -> int | None:
        return self._place("bias")

    @cached_property
    def residual(self) -> int | None:
        return self._place("residual")

    @property
    def has_epilogue(self) -> bool:
        """Whether it takes an activation, and a bias before it."""
        return "act" in self.attributes

    def refusal(self, given: Collection[bool], outputs: int, attrs: Collection[str], packing: str) -> str:
        """Why a call does not fit, "" where it does; `given` says of each argument whether there is one."""
        max_inputs = None if self.inputs[-1].repeated else len(self.inputs)
        present = list(given)
        lacking = [
            o.name for i, o in enumerate(self.inputs) if not o.optional and not (i < len(present) and present[i])
        ]
        if lacking or (max_inputs is not None and len(present) > max_inputs):
            min_inputs = max(i for i, operand in enumerate(self.inputs) if not operand.optional) + 1
            return (
                f"has {len(present)} inputs, of {min_inputs} to {'any number' if max_inputs is None else max_inputs}"
                + (f", and no {', '.join(lacking)}" if lacking else "")
            )
        fewest = sum(not operand.optional for operand in self.outputs)
        if not fewest <= outputs <= len(self.outputs):
            return f"has {outputs} outputs, of {fewest} to {len(self.outputs)}"
        unknown = sorted(set(attrs) - {key for key, row in self.attributes.items() if row["kind"] != "hint"})
        if unknown:
            return f"has no attribute {', '.join(unknown)}"
        if packing not in (self.packings or ("",)):
            return f"names the packing {packing!r}, expected {' or '.join(map(repr, self.packings or ('',)))}"
        return ""

    def _place(self, flag: str) -> int | None:
        return next((i for i, operand in enumerate(self.inputs) if getattr(operand, flag)), None)


def _operand(row: Mapping[str, Any]) -> Operand:
    return Operand(**{**row, "dtypes": tuple(row.get("dtypes", ()))})


CONTRACTS: dict[str, Contract] = {
    name: Contract(
        name,
        tuple(map(_operand, row["inputs"])),
        tuple(map(_operand, row["outputs"])),
        row["attributes"],
        tuple(row["packings"]),
    )
    for name, row in _kernels.describe()["contracts"].items()
}


def contract_of(name: str) -> Contract:
    """The contract of this name.

    Raises:
        CompileError: the library has none.
    """
    if name not in CONTRACTS:
        raise CompileError(
            f"this compiler calls the kernel contract '{name}', which the installed library does not have; "
            "install maas-rt's library and compiler in one version"
        )
    return CONTRACTS[name]

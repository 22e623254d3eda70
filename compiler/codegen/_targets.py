"""Targets by name: levels of the x86-64 psABI and of AArch64 that code sections are built for, and what "native" means here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm

from maas_rt._errors import InvalidArgumentError
from maas_rt._kernels import cpu_level

__all__ = ["TARGETS", "TargetSpec", "native_level", "resolve_targets", "runs_on_this_cpu"]


@dataclass(frozen=True)
class TargetSpec:
    """One code section's target: `name` is what the section table stores, the rest is for LLVM and the linker.

    `machine` is the processor as `uname -m` says it. `features` are those that `cpu` does not imply.
    """

    name: str
    machine: str
    cpu: str
    features: tuple[str, ...] = ()

    @property
    def triple(self) -> str:
        return f"{self.machine}-unknown-linux-gnu"

    def to_tvm(self) -> tvm.target.Target:
        # Level 2 vectorises as 3 does, and builds these small functions in two thirds of the time.
        settings = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "opt-level": 2}
        return tvm.target.Target({**settings, "mattr": list(self.features)} if self.features else settings)


# Of each machine, best first: the psABI's levels (x86-64-ABI 1.0, section 3.1.1), and AArch64 with what the library's kernels tell
# apart. NEON and fused multiply-adds are in AArch64's baseline.
TARGETS: dict[str, TargetSpec] = {
    spec.name: spec
    for spec in (
        TargetSpec("x86-64-v3", "x86_64", "x86-64-v3"),
        TargetSpec("x86-64-v2", "x86_64", "x86-64-v2"),
        TargetSpec("x86-64", "x86_64", "x86-64"),
        TargetSpec("aarch64-i8mm", "aarch64", "generic", ("+neon", "+dotprod", "+i8mm")),
        TargetSpec("aarch64-dotprod", "aarch64", "generic", ("+neon", "+dotprod")),
        TargetSpec("aarch64", "aarch64", "generic", ("+neon",)),
    )
}


def native_level() -> str:
    """The best named level that this machine's CPU has, as the library that loads code sections says it.

    Raises InvalidArgumentError on a machine that is neither an x86-64 nor an AArch64.
    """
    level = cpu_level()
    if level not in TARGETS:
        raise InvalidArgumentError(
            f'target "native" has no name on this machine: give one of {", ".join(TARGETS)} (--target)'
        )
    return level


def runs_on_this_cpu(name: str) -> bool:
    """Whether this machine runs code of the named level."""
    here = cpu_level()
    if here not in TARGETS or TARGETS[here].machine != TARGETS[name].machine:
        return False
    names = list(TARGETS)
    return names.index(name) >= names.index(here)


def resolve_targets(target: str | Sequence[str]) -> list[TargetSpec]:
    """The targets that `target` names, each once, those of a machine best first: "native", a level, several in a sequence or with commas.

    Raises InvalidArgumentError for a name that does not exist.
    """
    names = [name.strip() for name in target.split(",")] if isinstance(target, str) else list(target)
    resolved = {native_level() if name == "native" else name for name in names}
    unknown = sorted(name for name in resolved if name not in TARGETS)
    if unknown or not resolved:
        raise InvalidArgumentError(
            f"there is no target {', '.join(map(repr, unknown)) or repr(target)}: "
            f"expected native or some of {', '.join(TARGETS)}"
        )
    return [spec for name, spec in TARGETS.items() if name in resolved]

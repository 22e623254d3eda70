"""Targets by name: the levels of the x86-64 psABI that code sections are built for, and what "native" means here."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import tvm

from maas_rt._errors import InvalidArgumentError

__all__ = ["TARGETS", "TargetSpec", "native_level", "resolve_targets", "runs_on_this_cpu"]


@dataclass(frozen=True)
class TargetSpec:
    """One code section's target: `name` is what the section table stores, the rest is for LLVM.

    `vector_bytes` is the width of a vector register that generated code counts on.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int

    def to_tvm(self) -> tvm.target.Target:
        # Level 2 vectorises as 3 does, and builds these small functions in two thirds of the time.
        return tvm.target.Target({"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "opt-level": 2})


# The psABI's levels, best first, each with what it adds (x86-64-ABI 1.0, section 3.1.1).
_V2 = ("cx16", "sahf", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3")
_V3 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
TARGETS: dict[str, TargetSpec] = {
    spec.name: spec
    for spec in (
        TargetSpec("x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3", _V2 + _V3, 32),
        TargetSpec("x86-64-v2", "x86_64-unknown-linux-gnu", "x86-64-v2", _V2, 16),
        TargetSpec("x86-64", "x86_64-unknown-linux-gnu", "x86-64", (), 16),
    )
}


@functools.cache
def native_level() -> str:
    """The best named level that this machine's CPU has, as LLVM reads it.

    Raises InvalidArgumentError on a machine that is not an x86-64.
    """
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64"):
        raise InvalidArgumentError(
            f'target "native" is {machine} here, for which no level is named yet: give one of {", ".join(TARGETS)}'
        )
    features = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    present = {str(name) for name, on in features.items() if int(on)}
    for spec in TARGETS.values():
        if all(feature in present for feature in spec.features):
            return spec.name
    return "x86-64"


def runs_on_this_cpu(name: str) -> bool:
    """Whether this machine runs code of the named level."""
    names = list(TARGETS)
    return platform.machine().lower() in ("x86_64", "amd64") and names.index(name) >= names.index(native_level())


def resolve_targets(target: str | Sequence[str]) -> list[TargetSpec]:
    """The targets that `target` names, best first and each once: "native", a level, several in a sequence or with commas.

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

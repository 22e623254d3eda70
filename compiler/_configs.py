"""What a user can choose: frozen, versioned dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maas_rt._errors import InvalidArgumentError
from maas_rt._kernels import cpu_count

from ._recipes import Recipe
from .codegen import TargetSpec, resolve_targets, runs_on_this_cpu
from .emulation import CPUS, find_emulator

__all__ = [
    "CompileOptions",
    "Progress",
    "TargetSpec",
    "Tune",
    "VerifyOptions",
    "Weights",
]

# Called with (the stage's name, the fraction that is done, 0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class VerifyOptions:
    """How an artifact is checked against its source framework.

    `seed` draws the inputs; `runs` is how many random inputs each shape binding gets. The tolerances are for the worst
    element's error against the output's scale, by element type; integers and bools must be equal. Where the two differ, the inputs and
    both results of the first operator that does are written into the folder `keep_intermediates`. Either side has `seconds` for a run.
    """

    version: int = 1
    seed: int = 20240229
    runs: int = 2
    float64: float = 1e-8
    float32: float = 1e-4
    float16: float = 1e-2
    bfloat16: float = 8e-2
    seconds: float = 300.0
    keep_intermediates: str | None = None

    def tolerance(self, dtype: str) -> float:
        """The largest admitted error of an output of `dtype`; 0 for integers and bools, a step for what has few of them."""
        if dtype.startswith(("float8_", "float4_")):
            return {"float8_e4m3": 0.125, "float8_e5m2": 0.25, "float4_e2m1": 0.5}.get(dtype[:11], 1.0)
        return float(getattr(self, dtype, 0.0))


@dataclass(frozen=True)
class Tune:
    """Where a step can be done in several ways, all of them are timed on this machine, and the file takes the quickest.

    `budget` is in seconds, `threads` those of a run. Times are kept in the folder `cache` (None: $XDG_CACHE_HOME/maas_rt/tune, or
    ~/.cache/maas_rt/tune) by CPU, library and shapes: what is there is not timed again, and an interrupted run goes on.
    """

    budget: float = 600.0
    threads: int = 1
    cache: str | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise InvalidArgumentError(f"Tune: budget is {self.budget!r}, expected seconds above 0")
        if not isinstance(self.threads, int) or not 1 <= self.threads <= cpu_count():
            raise InvalidArgumentError(
                f"Tune: threads is {self.threads!r}, expected 1 to {cpu_count()}, the CPUs that this process may use"
            )


@dataclass(frozen=True)
class Weights:
    """Which tensors of a checkpoint are the model's, where its names alone do not tell.

    `key` is the nest to take, as "model_ema" or "app.model"; `prefix` is cut off the names, and what lacks it is left out;
    `ignore_surplus` leaves out what the model has no use for.
    """

    key: str | None = None
    prefix: str | None = None
    ignore_surplus: bool = False
    version: int = 1


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides an artifact's bytes besides the model, and whether it is verified."""

    version: int = 1
    targets: tuple[str, ...] = ("native",)
    name: str | None = None
    verify: VerifyOptions | None = VerifyOptions()
    dynamic: Any = None
    input_shapes: Mapping[str, Sequence[int]] | None = None
    factory: str | None = None
    recipe: Recipe | None = None
    tune: Tune | None = None
    verify_with: str | None = None  # "qemu": code for another CPU is run, too
    code: str = "shared"  # or "object": generated functions beside the file, to be linked into a host

    def resolved_targets(self) -> list[TargetSpec]:
        return resolve_targets(self.targets)

    def check(self) -> None:
        """Raises InvalidArgumentError for a target that does not exist, or that cannot be tuned for, or run, here; CompileError where the
        emulator is missing."""
        targets = self.resolved_targets()
        if self.verify_with is not None:
            self._check_emulation()
        if self.code not in ("shared", "object"):
            raise InvalidArgumentError(f"code is {self.code!r}, expected 'shared' or 'object'")
        if self.tune is not None and not runs_on_this_cpu(targets[0].name):
            raise InvalidArgumentError(
                f"tuning times kernels on this CPU, which does not run {targets[0].name}: tune on a machine that does, or leave it out"
            )

    def emulated_targets(self) -> list[str]:
        """Those that this CPU does not run and an emulator does."""
        return [spec.name for spec in self.resolved_targets() if spec.name in CPUS and not runs_on_this_cpu(spec.name)]

    def _check_emulation(self) -> None:
        if self.verify_with != "qemu":
            raise InvalidArgumentError(
                f'verify_with is {self.verify_with!r}, expected "qemu" (--verify-with qemu), or leave it out'
            )
        if self.verify is None:
            raise InvalidArgumentError(
                "verify_with asks for a verification (--verify-with), and verify=False (--no-verify) leaves it out: give one of them"
            )
        if not self.emulated_targets():
            given = ", ".join(spec.name for spec in self.resolved_targets())
            raise InvalidArgumentError(
                f"verify_with (--verify-with) runs code for AArch64 on a CPU that does not, and the targets are {given}: name one of "
                f"{', '.join(CPUS)} (--target), or leave it out"
            )
        find_emulator()

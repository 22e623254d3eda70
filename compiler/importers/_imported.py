"""What every importer returns: one Relax function, its names, states and symbols, and the source to verify against.

After import nobody asks where a model came from; docs/compiler.md states the conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import tvm
from tvm import relax

from ..ir._philox import SHARED_SEED

Array = npt.NDArray[Any]

__all__ = [
    "SEED",
    "SHARED_NOISE",
    "Array",
    "Condition",
    "ImportedModel",
    "IsolatedOperators",
    "Source",
    "StateSpec",
    "SymbolSpec",
]

SEED = "seed"  # the parameter of main that holds the run's seed, and main's attribute that says which parameter it is
SHARED_NOISE = f"shared, seed {SHARED_SEED}"  # a source is given what the kernels draw of that seed


@dataclass(frozen=True)
class SymbolSpec:
    """Bounds of one symbolic dimension; every value that it takes is a multiple of `multiple`."""

    min: int = 0
    max: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.min < 0 or self.multiple < 1 or (self.max is not None and self.max < self.min):
            raise ValueError(
                f"impossible bounds of a dimension: min {self.min}, max {self.max}, multiple {self.multiple}"
            )

    def nearest(self, extent: int) -> int:
        """The least allowed extent that is not below `extent`, else the largest that there is."""
        fitted = -(-max(extent, self.min) // self.multiple) * self.multiple
        if self.max is not None and fitted > self.max:
            fitted = self.max // self.multiple * self.multiple
        return fitted


@dataclass(frozen=True)
class StateSpec:
    """A tensor that lives from run to run: `initial` also gives its dtype and its (static) shape."""

    name: str
    initial: Array


@dataclass(frozen=True)
class Condition:
    """What the model needs of its sizes beyond their bounds: `holds` is a TIR truth over the symbols that the inputs' shapes give,
    `text` tells why, and what to do for other sizes, in a clause."""

    holds: Any
    text: str


@runtime_checkable
class Source(Protocol):
    """The source framework's own execution of the model: the oracle of verification."""

    @property
    def reference(self) -> str:
        """Which implementation it is."""

    def open(self) -> None:
        """Get ready to run; `run` does it where it was not called. Raises what says why the framework does not take the model."""

    def another(self) -> Source | None:
        """The same model in the next of the framework's implementations; None if there is none."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name; states start from their initial values, and are not changed by a run."""

    def interrupt(self) -> None:
        """From another thread, while `open` or `run` is in native code that sees no Python exception: have it return soon, or raise."""

    @property
    def noise(self) -> str:
        """How the random numbers that the model draws reach it; "" if it draws none."""

    def input_ranges(self) -> dict[str, tuple[float, float]]:
        """Inclusive bounds of the values that an input accepts (an embedding's rows); inputs without bounds are absent."""

    def with_moved_scales(self, share: float, trial: int = 0) -> Source | None:
        """The same model with each scale of a quantization, or what is quantized, moved by this share of it, in another way for each
        `trial`; None if it quantizes nothing."""

    def operators(self) -> int:
        """How many operators the source has: `prefix` accepts 1 to this many."""

    def parts(self) -> int:
        """How many things `open` has to get ready: operators and weights."""

    def prefix(self, count: int) -> tuple[ImportedModel, str]:
        """The model cut behind its first `count` operators, whose outputs are then the results of the last one of these;
        and that operator's name. The inputs are those of the whole model (unused ones included)."""

    def isolated(self, count: int, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        """The first `count` operators each by itself, as far as they can be taken apart; None if they cannot."""

    def between(self, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        """The model cut at its quantized tensors: each is a result, and what reads it reads what it is when the whole model runs. Of a result's
        `operators` there are several: all between it and those tensors. None if it quantizes nothing."""


@dataclass(frozen=True)
class IsolatedOperators:
    """A model's first operators each by itself: `model` computes the results of each from `inputs`, which are what it reads when the
    whole model runs, and must give `expected`. Results by the names of the model's outputs."""

    model: ImportedModel
    inputs: dict[str, Array]
    expected: dict[str, Array]
    operators: dict[str, str]  # the operator that each is a result of, or, with commas, several


@dataclass(frozen=True)
class ImportedModel:
    """One Relax function `main` and what its types cannot say.

    `mod["main"]` takes the run-time inputs in the order of `input_names`, then the current values of `states`, and last, if it draws
    random numbers, the run's seed (uint64 [1]; main's attribute SEED is its position); it returns a tuple, always: the outputs in the order of `output_names`, then the next values of `states`. Weights are
    `relax.Constant`s (one for tied weights), symbolic dimensions `tirx.Var`s, one for each key of `symbols`. A binding's
    variable is named after the source's operator where there is one.
    """

    mod: tvm.IRModule
    input_names: list[str]
    output_names: list[str]
    source: Source
    states: list[StateSpec] = field(default_factory=list)
    symbols: dict[str, SymbolSpec] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON-able: framework, kind, opset; no paths, no times
    example_inputs: dict[str, Array] | None = None  # inputs that came with the model, by name
    asked_minimums: dict[str, int] = field(
        default_factory=dict
    )  # smallest extents that the caller asked for, by symbol
    sizes: dict[str, Any] = field(
        default_factory=dict
    )  # symbol -> the extent (of others, it may be) that verification draws
    conditions: list[Condition] = field(
        default_factory=list
    )  # sizes for which one does not hold are refused by the run

    @property
    def draws(self) -> bool:
        """Whether main takes a seed."""
        attrs = self.mod["main"].attrs
        return attrs is not None and SEED in attrs

    def drop_weights(self) -> None:
        """Keep of `mod` no more than its parameters' types: when nothing is compiled from it any more, its weights are let go."""
        parameters = self.mod["main"].params
        body = relax.SeqExpr([], relax.Tuple([]))
        main = relax.Function(parameters, body, relax.TupleType([]), True, self.mod["main"].attrs)
        object.__setattr__(self, "mod", tvm.IRModule({"main": main}))

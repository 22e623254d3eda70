"""What is done to a model besides compiling it: frozen, versioned dataclasses. `compression/` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maas_rt._errors import InvalidArgumentError

__all__ = ["CALIBRATION_METHODS", "Int8", "Quantize", "Recipe"]

CALIBRATION_METHODS = ("minmax", "percentile", "mse", "entropy")


@dataclass(frozen=True)
class Int8:
    """Convolutions and matrix products with constant weights in 8-bit integers.

    `calibration` are inputs, as many as it takes to see the ranges of all activations: an iterable of sets (mappings by name, sequences
    by position, or the array of a model with one input), read once; or one mapping, or array, with samples along the first axis; None:
    the recipe's. `method` finds the ranges: "minmax", "percentile" (without the outermost ten-thousandth), "mse" (least squared error) or
    "entropy" (least Kullback-Leibler divergence). Of `activation_bits`, 7 is faster on CPUs without VNNI and 8 more accurate; sums are
    exact with either. The compiled model is held to the source on up to 32 of the calibration inputs: the worst element's error against
    the output's scale is at most `tolerance`.
    """

    calibration: Any = None
    version: int = 1
    activation_bits: int = 8
    tolerance: float = 0.1
    method: str = "minmax"

    def __post_init__(self) -> None:
        if self.activation_bits not in (7, 8):
            raise InvalidArgumentError(f"Int8: activation_bits is {self.activation_bits!r}, expected 7 or 8")
        if self.method not in CALIBRATION_METHODS:
            raise InvalidArgumentError(
                f"Int8: method is {self.method!r}, expected one of {', '.join(CALIBRATION_METHODS)}"
            )
        _check_data("Int8", self.calibration)
        if not self.tolerance > 0:
            raise InvalidArgumentError(f"Int8: tolerance is {self.tolerance!r}, expected a number above 0")


Quantize = Int8  # what a layer may have


@dataclass(frozen=True)
class Recipe:
    """What is done to a model besides compiling it.

    `quantize` is for all layers, but for those that `layers` names: patterns of the names that the manifest and `maas-rt inspect` give
    layers, as those of the module fnmatch, the first that fits; None leaves a layer in float. `calibration` is the data of whatever needs
    some, as `Int8` says.
    """

    version: int = 1
    quantize: Quantize | None = None
    layers: Mapping[str, Quantize | None] = field(default_factory=dict)
    calibration: Any = None

    def __post_init__(self) -> None:
        _check_data("Recipe", self.calibration)

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return bool(self.methods)

    @property
    def methods(self) -> list[Quantize]:
        """What layers may have, each once."""
        found: list[Quantize] = []
        for each in (self.quantize, *self.layers.values()):
            if each is not None and not any(each is other for other in found):
                found.append(each)
        return found

    @property
    def data(self) -> Any:
        """The calibration data, wherever they stand; None: there are none."""
        for given in (self.calibration, *(each.calibration for each in self.methods)):
            if given is not None:
                return given
        return None

    @property
    def tolerance(self) -> float:
        """Of the worst element's error against its output's scale: the widest that was admitted."""
        return max(each.tolerance for each in self.methods)


def _check_data(where: str, data: Any) -> None:
    if isinstance(data, Sequence | Mapping) and not len(data):
        raise InvalidArgumentError(f"{where}: calibration is empty, expected at least one set of the model's inputs")

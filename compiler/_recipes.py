"""What is done to a model besides compiling it: frozen, versioned dataclasses. `compression/` does it, `_recipe_toml.py` writes them down."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from maas_rt._errors import InvalidArgumentError

from .ir import BYTE_BLOCK

__all__ = [
    "CALIBRATION_METHODS",
    "PRUNE_METHODS",
    "ROUNDINGS",
    "WEIGHT_METHODS",
    "Half",
    "Int8",
    "Int8Dynamic",
    "Prune",
    "Quantize",
    "Recipe",
    "WeightOnly",
    "described",
    "needs_data",
]

PRUNE_METHODS = ("magnitude", "wanda", "sparsegpt")
ROUNDINGS = ("nearest", "gptq", "adaround")
CALIBRATION_METHODS = ("auto", "minmax", "percentile", "mse", "entropy")
WEIGHT_METHODS = ("rtn", "mse", "gptq", "awq", "awq+gptq")


@dataclass(frozen=True)
class Int8:
    """Convolutions and matrix products with constant weights in 8-bit integers.

    `calibration` are inputs, as many as it takes to see the ranges of all activations: an iterable of sets (mappings by name, sequences
    by position, or the array of a model with one input), read once; or one mapping, or array, with samples along the first axis; None:
    the recipe's. `method` finds the ranges: "minmax", "percentile" (without the outermost ten-thousandth), "mse" (least squared error),
    "entropy" (least Kullback-Leibler divergence), or "auto": minmax, with room for what other inputs have or without, or mse, whichever
    leaves the layers that read the activation the least error. `smooth` moves scale of channels from activations into weights
    (SmoothQuant, cross-layer equalisation), and `bias_correction` adds back what quantization moves the means of a layer's results by:
    either where the measured error of the layer falls, and nowhere else. `rounding` of weights is "nearest", or by what the calibration data
    make a layer read, which takes another run over them: "gptq" or "adaround", which takes minutes of a large layer. Where the outputs' signal
    to error on the calibration inputs is below 35 dB, layers stay in float whose return to it gains 1 dB, and half a dB for each percent of
    the work, up to a `float_share` of the multiply-adds and of the weights of what 8 bits are for (0: none); never those that
    `Recipe.layers` names. Of `activation_bits`, 7 is faster on CPUs without VNNI and 8 more accurate; sums are exact with either. The
    compiled model is held to the source on up to 32 of the calibration inputs: the worst element's error against the output's scale is at
    most `tolerance`.
    """

    calibration: Any = None
    version: int = 1
    activation_bits: int = 8
    tolerance: float = 0.1
    method: str = "auto"
    smooth: bool = True
    bias_correction: bool = True
    rounding: str = "nearest"
    float_share: float = 0.06

    @property
    def measures(self) -> bool:
        """Whether anything is chosen by the error of layers."""
        chosen = self.smooth, self.bias_correction, self.method == "auto", self.rounding != "nearest", self.float_share
        return any(chosen)

    def __post_init__(self) -> None:
        _check_version("Int8", self.version, 1)
        _check_flags("Int8", smooth=self.smooth, bias_correction=self.bias_correction)
        if type(self.activation_bits) is not int or self.activation_bits not in (7, 8):
            raise InvalidArgumentError(f"Int8: activation_bits is {self.activation_bits!r}, expected 7 or 8")
        if self.method not in CALIBRATION_METHODS:
            raise InvalidArgumentError(
                f"Int8: method is {self.method!r}, expected one of {', '.join(CALIBRATION_METHODS)}"
            )
        if self.rounding not in ROUNDINGS:
            raise InvalidArgumentError(f"Int8: rounding is {self.rounding!r}, expected one of {', '.join(ROUNDINGS)}")
        if type(self.float_share) not in (int, float) or not 0 <= self.float_share <= 1:
            raise InvalidArgumentError(
                f"Int8: float_share is {self.float_share!r}, expected a share of the multiply-adds, 0 to 1; 0 leaves no layer in float"
            )
        _check_data("Int8", self.calibration)
        _check_tolerance("Int8", self.tolerance)


@dataclass(frozen=True)
class WeightOnly:
    """Weights of products and rows of embeddings in integers of 4 or 8 `bits`, which stand for `(q - zero) * scale`.

    `group` numbers in a row of a weight's inputs, or of an embedding's row, share a scale, the last ones of a row perhaps fewer; None: a
    whole row does. `symmetric` groups have no zero point of their own. `method` finds the numbers: "rtn" (round to nearest: the group's
    largest magnitude, or its range, is the last step), "mse" (the scale with the least squared error) or, from the recipe's calibration
    data, "gptq" (each rounding error made up for by the weights that are still to be rounded; with `act_order` those of the largest inputs
    first), "awq" ("mse" behind scales that give large inputs finer steps, where what stands in front takes them back) or "awq+gptq" (these
    scales, and then GPTQ). Embeddings have no inputs to know of: "mse" with any but "rtn". `activations` of products stay "float" (float32; the product is exact but for rounding), or
    are rounded to "int8" by each run, with a scale for each 32 numbers in a row: quicker, for weights of 4 bits with groups of a multiple
    of 32 or none. `scales` are stored in "float16" (rounded before the numbers are found; a weight that has one beyond float16's normal
    numbers keeps float32, which the manifest's notes say) or in "float32". Where there are no data the result is held to the source on drawn inputs: the worst element's error against the output's
    scale is at most `tolerance`. An embedding that is also the weight of a product (a tied head) gets the product's numbers.
    """

    version: int = 1
    bits: int = 4
    group: int | None = 32
    symmetric: bool = True
    method: str = "mse"
    act_order: bool = False
    tolerance: float = 0.25
    activations: str = "float"
    scales: str = "float16"

    def __post_init__(self) -> None:
        _check_version("WeightOnly", self.version, 1)
        _check_flags("WeightOnly", symmetric=self.symmetric, act_order=self.act_order)
        if type(self.bits) is not int or self.bits not in (4, 8):
            raise InvalidArgumentError(f"WeightOnly: bits is {self.bits!r}, expected 4 or 8")
        is_count = isinstance(self.group, int) and not isinstance(self.group, bool) and self.group > 0
        if self.group is not None and not is_count:
            raise InvalidArgumentError(
                f"WeightOnly: group is {self.group!r}, expected a number of weights, as 32, or None for one scale a channel"
            )
        if self.method not in WEIGHT_METHODS:
            raise InvalidArgumentError(
                f"WeightOnly: method is {self.method!r}, expected one of {', '.join(WEIGHT_METHODS)}"
            )
        if self.act_order and "gptq" not in self.method:
            raise InvalidArgumentError(f"WeightOnly: act_order is for the method gptq, and method is {self.method!r}")
        if self.scales not in ("float16", "float32"):
            raise InvalidArgumentError(f"WeightOnly: scales is {self.scales!r}, expected float16 or float32")
        self._check_activations()
        _check_tolerance("WeightOnly", self.tolerance)

    def _check_activations(self) -> None:
        if self.activations not in ("float", "int8"):
            raise InvalidArgumentError(f"WeightOnly: activations is {self.activations!r}, expected float or int8")
        if self.activations == "int8" and self.bits != 4:
            raise InvalidArgumentError(
                f"WeightOnly: activations int8 are for weights of 4 bits, and bits is {self.bits}: take Int8Dynamic for 8"
            )
        if self.activations == "int8" and self.group is not None and self.group % BYTE_BLOCK:
            raise InvalidArgumentError(
                f"WeightOnly: activations int8 are for groups of a multiple of {BYTE_BLOCK}, or None, and group is {self.group}"
            )


@dataclass(frozen=True)
class Int8Dynamic:
    """Products with constant weights in 8-bit integers, the activations' ranges found by each run: no calibration data.

    `granularity` of the activations is "row" (a scale and zero point for each, as of a token) or "tensor" (one for all, which is quicker,
    and takes convolutions over two axes, too). Weights have a symmetric scale for each output. `tolerance` as of WeightOnly.
    """

    version: int = 1
    granularity: str = "row"
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        _check_version("Int8Dynamic", self.version, 1)
        if self.granularity not in ("row", "tensor"):
            raise InvalidArgumentError(f"Int8Dynamic: granularity is {self.granularity!r}, expected row or tensor")
        _check_tolerance("Int8Dynamic", self.tolerance)


@dataclass(frozen=True)
class Half:
    """Weights stored in 16 bits, "float16" or "bfloat16", and widened to float32 where they are computed with. `tolerance` as of WeightOnly."""

    version: int = 1
    dtype: str = "float16"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        _check_version("Half", self.version, 1)
        if self.dtype not in ("float16", "bfloat16"):
            raise InvalidArgumentError(f"Half: dtype is {self.dtype!r}, expected float16 or bfloat16")
        _check_tolerance("Half", self.tolerance)


Quantize = Int8 | Int8Dynamic | WeightOnly | Half  # what a layer may have
_KINDS: dict[type[Any], str] = {Int8: "int8", Int8Dynamic: "int8_dynamic", WeightOnly: "weight_only", Half: "half"}


def needs_data(method: Quantize | Prune) -> bool:
    """Whether it wants to see what runs of the model compute."""
    if isinstance(method, Prune):
        return method.method != "magnitude"
    return isinstance(method, Int8) or (isinstance(method, WeightOnly) and method.method not in ("rtn", "mse"))


def described(method: Quantize) -> dict[str, Any]:
    """A method for the manifest: its kind and what was chosen, without its data."""
    return {"kind": _KINDS[type(method)]} | {
        each.name: getattr(method, each.name) for each in fields(method) if each.name != "calibration"
    }


@dataclass(frozen=True)
class Prune:
    """Weights of convolutions and matrix products that are taken away, a share of `sparsity` in each layer (0 <= sparsity < 1).

    `pattern` says how. Zeros: "unstructured" anywhere; "block" in blocks that kernels gain most by, 4 outputs by 1 input of a layer that
    stays in float and 4 by 4 of one on 8 bits; "N:M" (as "2:4", with the sparsity 1 - N/M) so that of each M neighbouring inputs of an
    output N stay. Zeros leave out depthwise layers, the first layer of an input and the last one of an output, unless
    `Recipe(prune_layers=...)` names them. A smaller model: "structured" takes whole channels, neurons and attention heads away, that share
    of each layer's in panels of 16 (8 of depthwise layers); "low_rank" makes two layers of one, through so few channels that this share of
    the weights is saved.

    `method` says which. Zeros: "magnitude", the least; "wanda", the least beside the norm of what they are multiplied with (M. Sun et al.,
    2023); "sparsegpt" (E. Frantar and D. Alistarh, 2023), which also changes the others so that they make up for it. Channels: by norms of
    weights; by those of weights times activations; and so with least squares on what is left. Ranks: by the least error of the weights, or,
    with the other two, of what the layer gives. Magnitude needs no data; `calibration` and `tolerance` are as in Int8.
    """

    sparsity: float = 0.5
    pattern: str = "unstructured"
    method: str = "sparsegpt"
    calibration: Any = None
    version: int = 1
    tolerance: float = 0.5

    def __post_init__(self) -> None:
        _check_version("Prune", self.version, 1)
        if not (isinstance(self.sparsity, int | float) and 0 <= self.sparsity < 1):
            raise InvalidArgumentError(
                f"Prune: sparsity is {self.sparsity!r}, expected a share of 0 or more and below 1"
            )
        if self.method not in PRUNE_METHODS:
            raise InvalidArgumentError(f"Prune: method is {self.method!r}, expected one of {', '.join(PRUNE_METHODS)}")
        _check_data("Prune", self.calibration)
        _check_tolerance("Prune", self.tolerance)
        if self.pattern not in ("unstructured", "block", "structured", "low_rank"):
            self._check_kept()

    @property
    def kept_of(self) -> tuple[int, int] | None:
        """(N, M) of the pattern N:M; None of the others."""
        found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", str(self.pattern))
        return (int(found[1]), int(found[2])) if found else None

    def _check_kept(self) -> None:
        kept, of = self.kept_of or (0, 0)
        if not 0 < kept < of:
            raise InvalidArgumentError(
                f"Prune: pattern is {self.pattern!r}, expected unstructured, block, structured, low_rank or N:M with N below M, as 2:4"
            )
        if abs(self.sparsity - (1 - kept / of)) > 1e-6:
            raise InvalidArgumentError(
                f"Prune: sparsity is {self.sparsity!r}, and {self.pattern} is one of {1 - kept / of:g}: give that, or another pattern"
            )


_BY_WORD: dict[str, type[Any]] = {**{word: kind for kind, word in _KINDS.items()}, "prune": Prune}


@dataclass(frozen=True)
class Recipe:
    """What is done to a model besides compiling it.

    `quantize` is for all layers, but for those that `layers` names: patterns of the names that the manifest and `maas-rt inspect` give
    layers, as those of the module fnmatch, the first that fits; None leaves a layer in float. `prune` is done before, to all layers but
    those that `prune_layers` names in the same way; None leaves a layer dense. `calibration` is the data of whatever needs some, as
    `Int8` says.
    """

    version: int = 1
    quantize: Quantize | None = None
    layers: Mapping[str, Quantize | None] = field(default_factory=dict)
    calibration: Any = None
    prune: Prune | None = None
    prune_layers: Mapping[str, Prune | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_version("Recipe", self.version, 1)
        _check_data("Recipe", self.calibration)
        _check_patterns("layers", self.layers)
        _check_patterns("prune_layers", self.prune_layers)
        for where, method in (
            ("quantize", self.quantize),
            *((f"layers[{name!r}]", each) for name, each in self.layers.items()),
        ):
            if method is not None and not isinstance(method, Quantize):
                raise InvalidArgumentError(
                    f"Recipe: {where} is {method!r}, expected one of {', '.join(each.__name__ for each in _KINDS)} (each with its "
                    "options), or None"
                )
        for each in (self.prune, *self.prune_layers.values()):
            if each is not None and not isinstance(each, Prune):
                raise InvalidArgumentError(
                    f"Recipe: prune or a layer of prune_layers is {each!r}, expected a Prune or None"
                )

    def to_toml(self) -> str:
        """The recipe as a TOML document, without its data: `from_toml` gives it back, and the same data give the same model again."""
        from ._recipe_toml import to_toml

        return to_toml(self, _BY_WORD)

    @classmethod
    def from_toml(cls, text: str, calibration: Any = None) -> Recipe:
        """The recipe of a TOML document (docs/compiler.md has its keys) with these calibration data.

        Raises InvalidArgumentError: it is no TOML, of a newer version, or says what no recipe has.
        """
        from ._recipe_toml import from_toml

        return cls(**from_toml(text, _BY_WORD), calibration=calibration)

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return bool(self.methods or self.prunings)

    @property
    def methods(self) -> list[Quantize]:
        """How layers may be quantized, each once."""
        return _once(self.quantize, *self.layers.values())

    @property
    def prunings(self) -> list[Prune]:
        """How layers may be pruned, each once."""
        return _once(self.prune, *self.prune_layers.values())

    @property
    def data(self) -> Any:
        """The calibration data, wherever they stand; None: there are none."""
        for given in (
            self.calibration,
            *(getattr(each, "calibration", None) for each in (*self.methods, *self.prunings)),
        ):
            if given is not None:
                return given
        return None

    @property
    def tolerance(self) -> float:
        """Of the worst element's error against its output's scale: the widest that was admitted."""
        both: list[Quantize | Prune] = [*self.methods, *self.prunings]
        return max(each.tolerance for each in both)


M = TypeVar("M")


def _once(*methods: M | None) -> list[M]:
    found: list[M] = []
    for each in methods:
        if each is not None and not any(each is other for other in found):
            found.append(each)
    return found


def _check_version(where: str, version: object, newest: int) -> None:
    if version != newest:
        raise InvalidArgumentError(
            f"{where}: version is {version!r}, and this compiler knows {newest}: take a newer maas_rt, or write the recipe anew"
        )


def _check_flags(where: str, **flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidArgumentError(f"{where}: {name} is {value!r}, expected True or False")


def _check_patterns(name: str, patterns: object) -> None:
    if not isinstance(patterns, Mapping) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InvalidArgumentError(
            f"Recipe: {name} is {patterns!r}, expected a mapping from patterns of names, as 'head*', to methods or None"
        )


def _check_data(where: str, data: Any) -> None:
    if isinstance(data, Sequence | Mapping) and not len(data):
        raise InvalidArgumentError(f"{where}: calibration is empty, expected at least one set of the model's inputs")


def _check_tolerance(where: str, tolerance: float) -> None:
    if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
        raise InvalidArgumentError(
            f"{where}: tolerance is {tolerance!r}, expected a number above 0, and a finite one: a result is always held to its source"
        )

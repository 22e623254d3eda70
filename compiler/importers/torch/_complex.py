"""Complex numbers as pairs: what stands for a complex tensor while a graph is converted, and how converters of their own find it.

Neither TVM nor the runtime has complex dtypes. A tensor of a complex dtype is a `Pair` of real ones here; the converters in
ops/complex.py work on pairs, those of operators that treat each element alike (views, copies, sums) are run once for each part, and
every other converter refuses a pair by name. A complex input or output of the model, and a complex buffer that it changes, is what
torch.view_as_real gives: a real array with a last axis of 2, real part first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from tvm import relax

from ._context import Context, Expr, is_size
from ._dtypes import tvm_dtype
from ._registry import CONVERTERS, Converter, NotConvertible, bind_arguments, described, find_converter

__all__ = [
    "COMPLEX",
    "EACH_PART",
    "WHOLE",
    "Pair",
    "concerned",
    "constant",
    "convert",
    "converts_complex",
    "imaginary",
    "is_complex",
    "joined",
    "names",
    "part_dtype",
    "separated",
]  # fmt: skip

_PARTS = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


@dataclass(frozen=True, eq=False)
class Pair:
    """A complex tensor: real tensors of one shape and dtype; `imag` None is zero everywhere."""

    real: Expr
    imag: Expr | None


COMPLEX: dict[str, Converter] = {}  # converters that take and give pairs

F = TypeVar("F", bound=Callable[..., Any])


def converts_complex(*names: str) -> Callable[[F], F]:
    """Register the function for overloads of operators, as "aten.mul.Tensor", where a complex tensor goes in or out."""

    def register(function: F) -> F:
        for name in names:
            if name in COMPLEX:
                raise ValueError(f"two complex converters for {name}")
            COMPLEX[name] = described(name, function)
        return function

    return register


# Operators whose ordinary converter is right for each part alone, and which of their arguments have parts (others are the same
# in both runs). They give zeros for zeros.
EACH_PART: dict[str, tuple[str, ...]] = dict.fromkeys(
    (
        "aten." + name
        for name in (
            "clone.default contiguous.default alias.default detach.default lift_fresh_copy.default lift.default view.default "
            "reshape.default _unsafe_view.default squeeze.default squeeze.dim squeeze.dims unsqueeze.default flatten.using_ints "
            "unflatten.int view_as.default reshape_as.default permute.default transpose.int t.default mT.default numpy_T.default "
            "expand.default expand_as.default broadcast_to.default repeat.default slice.Tensor select.int narrow.default "
            "split.Tensor split_with_sizes.default chunk.default split.sizes tensor_split.sections tensor_split.indices "
            "unbind.int flip.default roll.default unfold.default unfold_copy.default diagonal.default diagonal_copy.default "
            "tril.default triu.default neg.default index.Tensor index_select.default gather.default take.default "
            "sum.default sum.dim_IntList mean.default mean.dim cumsum.default trace.default "
            "reflection_pad1d.default reflection_pad2d.default replication_pad1d.default replication_pad2d.default"
        ).split()
    ),
    ("x",),
) | {
    "aten.unfold_backward.default": ("grad_in",),
    "aten.cat.default": ("tensors",),
    "aten.concat.default": ("tensors",),
    "aten.stack.default": ("tensors",),
    "aten.constant_pad_nd.default": ("x", "value"),
    "aten.pad.default": ("x", "value"),
    "aten.where.self": ("x", "other"),
    "aten.where.ScalarSelf": ("x", "other"),
    "aten.where.ScalarOther": ("x", "other"),
    "aten.masked_fill.Scalar": ("x", "value"),
    "aten.masked_fill.Tensor": ("x", "value"),
    "aten.full.default": ("fill_value",),
    "aten.full_like.default": ("x", "fill_value"),
    "aten.new_full.default": ("x", "fill_value"),
    "aten.fill.Scalar": ("x", "value"),
    "aten.fill.Tensor": ("x", "value"),
    "aten.copy.default": ("x", "src"),
    "aten.scalar_tensor.default": ("s",),
    "aten.index_put.default": ("x", "values"),
    "aten.scatter.src": ("x", "src"),
    "aten.scatter_add.default": ("x", "src"),
    "aten.index_add.default": ("x", "source"),
    "aten.select_scatter.default": ("x", "src"),
    "aten.slice_scatter.default": ("x", "src"),
    "aten.diagonal_scatter.default": ("x", "src"),
}
# Operators that make real values of a complex dtype.
_REAL_ALONE = frozenset(
    "aten." + name
    for name in (
        "zeros.default ones.default zeros_like.default ones_like.default new_zeros.default new_ones.default empty.memory_format "
        "empty_like.default new_empty.default eye.default eye.m linspace.default"
    ).split()
)


# Operators of complex numbers that torch's graphs also have on real ones.
_ON_REAL = frozenset(
    f"aten.{name}.default" for name in "real conj conj_physical _conj resolve_conj resolve_neg _neg_view".split()
)
# What torch would take to pieces that cost more than the whole.
WHOLE = frozenset({"aten.real.default", "aten.imag.default"})


def names() -> list[str]:
    """The operators that take or give complex tensors."""
    whole = {name for name in [*EACH_PART, *_REAL_ALONE] if name in CONVERTERS}
    return sorted(whole | set(COMPLEX))


def part_dtype(dtype: torch.dtype) -> str:
    """The dtype of the parts of a complex dtype; of a real one, itself."""
    return tvm_dtype(_PARTS.get(dtype, dtype))


def is_complex(fake: Any) -> bool:
    return isinstance(fake, torch.Tensor) and fake.dtype in _PARTS


def imaginary(c: Context, pair: Pair) -> Expr:
    """The imaginary part as a tensor."""
    return c.zeros(c.shape(pair.real), c.dtype(pair.real)) if pair.imag is None else pair.imag


def joined(c: Context, pair: Pair) -> Expr:
    """[..., 2]: what torch.view_as_real gives."""
    shape = c.shape(pair.real)
    parts = [c.reshape(part, [*shape, 1]) for part in (pair.real, imaginary(c, pair))]
    return c.emit(relax.op.concat(parts, axis=len(shape)))


def separated(c: Context, x: Expr) -> Pair:
    """The pair of a real tensor [..., 2]."""
    *shape, _ = c.shape(x)
    real, imag = (c.reshape(c.slice(x, len(shape), i, 1), shape) for i in range(2))
    return Pair(real, imag)


def constant(c: Context, tensor: torch.Tensor) -> Any:
    """A weight: a Relax constant, or a pair of them."""
    if not is_complex(tensor):
        return c.tensor_const(tensor)
    dense = tensor.detach().resolve_conj().resolve_neg()
    return Pair(*(c.tensor_const(part.contiguous()) for part in (dense.real, dense.imag)))


def concerned(target: Any, values: list[Any], result: Any) -> bool:
    """Whether a complex tensor goes into a call or comes out of it."""
    fakes = list(result) if isinstance(result, (tuple, list)) else [result]
    if any(isinstance(value, (Pair, complex)) for value in values) or any(is_complex(fake) for fake in fakes):
        return True
    return find_converter(target) is None and str(target) in _ON_REAL


def convert(c: Context, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The value of a call in which complex tensors take part; `c` has the call's fakes and its result's."""
    name = str(target)
    if name in COMPLEX:
        return COMPLEX[name].function(c, **bind_arguments(COMPLEX[name], target, args, kwargs))
    converter = CONVERTERS.get(name)
    if converter is None or not (name in EACH_PART or name in _REAL_ALONE):
        raise NotConvertible("complex numbers" if converter is not None else "")
    bound = bind_arguments(converter, target, args, kwargs)
    valued = EACH_PART.get(name, ())
    taken = {key: bound[key] for key in valued if key in bound}
    others = {key: value for key, value in bound.items() if key not in taken}
    if any(isinstance(leaf, Pair) for leaf in _leaves(list(others.values()))) and name not in _REAL_ALONE:
        raise NotConvertible("complex numbers")
    with _as_real(c):
        real = converter.function(c, **_parts(c, taken, 0), **_parts(c, others, 0))
        if name in _REAL_ALONE or not any(_has_imag(leaf) for leaf in _leaves(list(taken.values()))):
            return _paired(real, None)
        imag = converter.function(c, **_parts(c, taken, 1), **_parts(c, others, 0))
    return _paired(real, imag)


class _as_real:
    """While an ordinary converter runs for one part: the call's tensors as torch would see that part."""

    def __init__(self, c: Context) -> None:
        self.c, self.originals = c, (c.fakes, c.result)

    def __enter__(self) -> None:
        fakes, result = self.originals
        self.c.fakes = {key: _real_fakes(value) for key, value in fakes.items()}
        self.c.result = _real_fakes(result)

    def __exit__(self, *_: object) -> None:
        self.c.fakes, self.c.result = self.originals


def _real_fakes(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_real_fakes(item) for item in value]
    if is_complex(value):
        with value.fake_mode:
            return torch.empty_like(value, dtype=_PARTS[value.dtype])
    if isinstance(value, torch.dtype):
        return _PARTS.get(value, value)
    return value.real if isinstance(value, complex) else value


def _parts(c: Context, bound: dict[str, Any], part: int) -> dict[str, Any]:
    return {key: _part(c, value, part) for key, value in bound.items()}


def _part(c: Context, value: Any, part: int) -> Any:
    if isinstance(value, (tuple, list)):
        return [_part(c, item, part) for item in value]
    if isinstance(value, Pair):
        return imaginary(c, value) if part else value.real
    if isinstance(value, complex):
        return value.imag if part else value.real
    if isinstance(value, torch.dtype):
        return _PARTS.get(value, value)
    if part == 0 or value is None:
        return value
    if isinstance(value, (bool, int, float)) or is_size(value):
        return 0.0
    return c.zeros(c.shape(value), c.dtype(value))


def _paired(real: Any, imag: Any) -> Any:
    if isinstance(real, (tuple, list)):
        return [_paired(r, i) for r, i in zip(real, [None] * len(real) if imag is None else imag)]
    return Pair(real, imag)


def _has_imag(value: Any) -> bool:
    return (isinstance(value, Pair) and value.imag is not None) or isinstance(value, complex)


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (tuple, list)) else [value]

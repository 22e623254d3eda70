"""Operators that read or write at positions that are data: embedding, gather, scatter, advanced indexing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tvm import relax, te, tirx

from .._context import Context, Expr
from .._dtypes import tvm_dtype
from .._registry import NotConvertible, converts
from .elementwise import fitted
from .reduce import vector_norm
from .scatter import coordinates, masked_scatter, scatter_reduce
from .shape import clamped

OP = relax.op


@converts("aten.embedding.default")
def embedding(c: Context, weight: Expr, indices: Expr, padding_idx: int = -1) -> Expr:
    """weight [V, D], indices [...] -> [..., D]; padding_idx only matters for gradients."""
    return c.take_within(weight, indices, 0)


@converts("aten.index_select.default")
def index_select(c: Context, x: Expr, dim: int, index: Expr) -> Expr:
    if c.rank(x) == 0:
        return x
    index = c.reshape(index, [1]) if c.rank(index) == 0 else index
    return c.take_within(x, index, dim % c.rank(x))


@converts("aten.gather.default")
def gather(c: Context, x: Expr, dim: int, index: Expr) -> Expr:
    if c.rank(x) == 0 or c.rank(index) == 0:
        flat = c.reshape(x, [1]) if c.rank(x) == 0 else x
        place = c.reshape(index, [1]) if c.rank(index) == 0 else index
        return c.reshape(c.take(flat, _bounded(c, place, c.shape(flat)[0]), 0), c.out_shape())
    axis = dim % c.rank(x)
    return c.emit(OP.gather_elements(x, _bounded(c, index, c.shape(x)[axis]), axis))


def _bounded(c: Context, index: Expr, size: Any) -> Expr:
    """What is out of range, where the run is refused, is clamped: no memory outside may be touched."""
    c.check_indices(index, size)
    return _clamped(c, index, size)


def _clamped(c: Context, index: Expr, size: Any) -> Expr:
    last = c.emit(OP.subtract(c.tensor(size, "int64"), c.const(1, "int64")))
    return c.emit(OP.maximum(c.emit(OP.minimum(c.cast(index, "int64"), last)), c.const(0, "int64")))


def _scattered(c: Context, x: Expr, dim: int, index: Expr, src: Expr, reduction: str) -> Expr:
    if c.rank(x) == 0 or c.rank(index) == 0:
        wide = [v if c.rank(v) else c.reshape(v, [1]) for v in (x, index, src)]
        return c.reshape(_scattered(c, wide[0], dim, wide[1], wide[2], reduction), c.shape(x))
    axis = dim % c.rank(x)
    beside = [[size for a, size in enumerate(c.shape(v)) if a != axis] for v in (x, index)]
    if not c.same_dims(*beside):  # TVM's operator takes both to have the same extents beside the axis
        return scatter_reduce(c, x, dim, index, src, reduction)
    src = _cropped(c, src, c.shape(index))
    return c.emit(OP.scatter_elements(x, _bounded(c, index, c.shape(x)[axis]), src, axis, reduction))


def _cropped(c: Context, x: Expr, shape: Sequence[Any]) -> Expr:
    for axis, size in enumerate(shape):
        x = c.slice(x, axis, 0, size)
    return x


@converts("aten.scatter.src")
def scatter(c: Context, x: Expr, dim: int, index: Expr, src: Expr) -> Expr:
    return _scattered(c, x, dim, index, src, "update")


@converts("aten.scatter.value")
def scatter_value(c: Context, x: Expr, dim: int, index: Expr, value: Any) -> Expr:
    src = c.broadcast(c.reshape(c.tensor(value, c.dtype(x)), [1] * c.rank(index)), c.shape(index))
    return _scattered(c, x, dim, index, src, "update")


@converts("aten.scatter_add.default")
def scatter_add(c: Context, x: Expr, dim: int, index: Expr, src: Expr) -> Expr:
    return _scattered(c, x, dim, index, src, "add")


@converts("aten.scatter.reduce")
def scatter_reduce_src(c: Context, x: Expr, dim: int, index: Expr, src: Expr, reduce: str) -> Expr:
    return _scattered(c, x, dim, index, src, {"add": "add", "multiply": "mul"}[reduce])


@converts("aten.scatter.value_reduce")
def scatter_reduce_value(c: Context, x: Expr, dim: int, index: Expr, value: Any, reduce: str) -> Expr:
    src = c.broadcast(c.reshape(c.tensor(value, c.dtype(x)), [1] * c.rank(index)), c.shape(index))
    return _scattered(c, x, dim, index, src, {"add": "add", "multiply": "mul"}[reduce])


def _unmasked(c: Context, indices: Sequence[Expr | None], size: Any) -> list[Expr | None]:
    """The indices with each mask as the positions of what is true in it; torch calls their number `size`."""
    out: list[Expr | None] = []
    for i in indices:
        masked = i is not None and c.dtype(i) in ("bool", "uint8")
        out += coordinates(c, c.cast(i, "bool"), size) if masked else [i]
    return out


def _wrapped(c: Context, index: Expr, size: Any) -> Expr:
    """Positions with negative ones counted from the end, as int64."""
    if c.dtype(index) in ("bool", "uint8"):
        raise NotConvertible("indexing by a mask, whose result's size only the data decides")
    index = c.cast(index, "int64")
    negative = c.emit(OP.less(index, c.const(0, "int64")))
    return c.where(negative, c.emit(OP.add(index, c.tensor(size, "int64"))), index)


def _linear_index(c: Context, indices: list[Expr], sizes: Sequence[Any]) -> Expr:
    """One position into the flattened indexed axes: ((i0 * n1) + i1) * n2 + ..."""
    total = _wrapped(c, indices[0], sizes[0])
    for index, size in zip(indices[1:], sizes[1:]):
        total = c.emit(OP.multiply(total, c.tensor(size, "int64")))
        total = c.emit(OP.add(total, _wrapped(c, index, size)))
    return total


def _check_positions(c: Context, indices: list[Expr], sizes: Sequence[Any]) -> None:
    for index, size in zip(indices, sizes):
        if c.dtype(index) not in ("bool", "uint8"):
            c.check_indices(index, size, wraps=True)


def _product(shape: Sequence[Any]) -> Any:
    total: Any = 1
    for size in shape:
        total = total * size
    return total


def _front(c: Context, x: Expr, axes: list[int]) -> tuple[Expr, list[int]]:
    """x with the axes in front, merged into one; and the permutation that was used."""
    rest = [a for a in range(c.rank(x)) if a not in axes]
    shape = c.shape(x)
    moved = c.permute(x, [*axes, *rest])
    return c.reshape(moved, [_product([shape[a] for a in axes]), *[shape[a] for a in rest]]), [*axes, *rest]


@converts("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(c: Context, x: Expr, indices: list[Expr | None]) -> Expr:
    """x[i, :, j, ...]: the axes with an index are merged and read at once; the read axes stay in place if they are adjacent, else
    come first (numpy's rule)."""
    masks = [i for i in indices if i is not None and c.dtype(i) in ("bool", "uint8")]
    if masks:
        unknown = [s for s in c.result.shape if not c.symbols.knows(s)]
        if not unknown and sum(i is not None for i in indices) == 1:  # how many are true was asked before
            unknown = [c.result.shape[next(a for a, i in enumerate(indices) if i is not None)]]
        if len(masks) > 1 or len(unknown) != 1 or c.rank(masks[0]) == 0:
            raise NotConvertible("indexing by a mask of this form")
        indices = _unmasked(c, indices, unknown[0])
    axes = [a for a, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if not masks:
        _check_positions(c, given, [c.shape(x)[a] for a in axes])
    if len(axes) == 1:
        return c.take(x, _wrapped(c, given[0], c.shape(x)[axes[0]]), axes[0])
    table, _ = _front(c, x, axes)
    read = c.take(table, _linear_index(c, given, [c.shape(x)[a] for a in axes]), 0)
    if axes != list(range(axes[0], axes[0] + len(axes))) or axes[0] == 0:
        return read
    count = c.rank(read) - (c.rank(x) - len(axes))  # axes of the positions
    leading = list(range(count, count + axes[0]))
    return c.permute(read, [*leading, *range(count), *range(count + axes[0], c.rank(read))])


@converts("aten.take.default")
def take(c: Context, x: Expr, index: Expr) -> Expr:
    """Elements of x, flat."""
    count = _product(c.shape(x))
    c.check_indices(index, count, wraps=True)
    return c.take(c.reshape(x, [count]), _wrapped(c, index, count), 0)


@converts("aten.embedding_renorm.default")
def embedding_renorm(c: Context, x: Expr, indices: Expr, max_norm: float, norm_type: float) -> Expr:
    """Rows that indices name, and whose norm is above max_norm, scaled down to it."""
    rows, dtype = c.shape(x)[0], c.dtype(x)
    size = vector_norm(c, x, norm_type, [1], True)
    scale = c.emit(OP.divide(c.const(max_norm, dtype), c.emit(OP.add(size, c.const(1e-7, dtype)))))
    places = c.cast(c.reshape(indices, [_product(c.shape(indices))]), "int64")
    ones = c.zeros(c.shape(places), "int8", 1)
    named = c.emit(OP.scatter_elements(c.zeros([rows], "int8"), places, ones, 0, "update"))
    large = c.emit(OP.greater(size, c.const(max_norm, dtype)))
    chosen = c.emit(OP.logical_and(large, c.cast(c.reshape(named, [rows, 1]), "bool")))
    return c.where(chosen, c.emit(OP.multiply(x, scale)), x)


@converts("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(c: Context, x: Expr, indices: list[Expr | None], values: Expr, accumulate: bool = False) -> Expr:
    """x with x[i, :, j] = values; the axes with an index are merged in front, written, and put back."""
    axes = [a for a, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if not given:
        raise NotConvertible("no index")
    if c.dtype(given[0]) == "bool":
        return _masked_put(c, x, axes, given, values, accumulate)
    shape = c.shape(x)
    table, order = _front(c, x, axes)
    _check_positions(c, given, [shape[a] for a in axes])
    position = _clamped(c, _linear_index(c, given, [shape[a] for a in axes]), _product([shape[a] for a in axes]))
    places, inner = c.shape(position), c.shape(table)[1:]
    count, lead = _product(places), axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    values = c.broadcast(values, [*inner[:lead], *places, *inner[lead:]])
    if lead:  # the positions come first, as in the table
        rank = len(places)
        values = c.permute(values, [*range(lead, lead + rank), *range(lead), *range(lead + rank, c.rank(values))])
    values = c.reshape(values, [count, *inner])
    flat = c.reshape(c.reshape(position, [count]), [count, *[1] * len(inner)])
    spread = c.broadcast(flat, [count, *inner])
    written = c.emit(OP.scatter_elements(table, spread, values, 0, "add" if accumulate else "update"))
    moved = c.reshape(written, [shape[a] for a in order])
    return c.permute(moved, [order.index(a) for a in range(len(order))])


def _masked_put(c: Context, x: Expr, axes: list[int], given: list[Expr], values: Expr, accumulate: bool) -> Expr:
    """x[mask] = values: the same for each row of x that the mask chooses, or as many as there are."""
    if axes != [0]:
        raise NotConvertible("an assignment through a mask beside other indices")
    shape, rank = c.shape(x), c.rank(given[0])
    inner, values = shape[rank:], c.cast(values, c.dtype(x))
    mask = fitted(c, c.reshape(given[0], [*c.shape(given[0]), *[1] * len(inner)]))
    extra = c.rank(values) - len(inner)
    if extra <= 0 or c.same_dims(c.shape(values)[:extra], [1] * extra):
        new = c.reshape(
            values, [*[1] * (len(shape) - c.rank(values) + max(extra, 0)), *c.shape(values)[max(extra, 0) :]]
        )
        return c.where(mask, c.emit(OP.add(x, new)) if accumulate else new, x)
    if extra > 1 or not c.same_dims(c.shape(values)[1:], inner):
        raise NotConvertible("an assignment of values of this form through a mask")
    base = c.zeros(shape, c.dtype(x)) if accumulate else x
    found = masked_scatter(c, base, mask, values)
    return c.emit(OP.add(x, found)) if accumulate else found


@converts("aten.slice_scatter.default")
def slice_scatter(
    c: Context, x: Expr, src: Expr, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Expr:
    axis = dim % c.rank(x)
    size, length = c.shape(x)[axis], c.shape(src)[axis]
    begin = clamped(c, start, size) if start is not None else 0
    if step != 1:
        return _strided_scatter(c, x, src, axis, begin, step)
    if c.same_dims([length], [size]):
        return src
    after = begin + length
    parts = []
    if not (isinstance(begin, int) and begin == 0):
        parts.append(c.slice(x, axis, 0, begin))
    parts.append(src)
    if not c.same_dims([after], [size]):
        parts.append(c.slice(x, axis, after, size - after))
    return c.emit(OP.concat(parts, axis=axis))


def _strided_scatter(c: Context, x: Expr, src: Expr, axis: int, begin: Any, step: int) -> Expr:
    if not isinstance(begin, int):
        raise NotConvertible("an assignment to a slice with a step, from a dynamic position")

    def build(values: Any, new: Any) -> Any:
        count = new.shape[axis]

        def element(*i: Any) -> Any:
            off = i[axis] - begin
            here = tirx.all(off >= 0, tirx.floormod(off, step) == 0, tirx.floordiv(off, step) < count)
            place = [tirx.floordiv(off, step) if a == axis else p for a, p in enumerate(i)]
            return tirx.if_then_else(here, new(*place), values(*i))

        return te.compute(values.shape, element, name="strided_scatter")

    return c.generated(build, x, src, name="strided_scatter")[0]


@converts("aten.select_scatter.default")
def select_scatter(c: Context, x: Expr, src: Expr, dim: int, index: Any) -> Expr:
    axis = dim % c.rank(x)
    size = c.shape(x)[axis]
    if isinstance(index, int) and index < 0:
        index = index + size
    shape = c.shape(x)
    return slice_scatter(c, x, c.reshape(src, [*shape[:axis], 1, *shape[axis + 1 :]]), axis, index)


@converts("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
def embedding_bag_core(c: Context, weight: Expr, indices: Expr, offsets: Expr, mode: int = 0, per_sample_weights: Any = None,
                       include_last_offset: bool = False, padding_idx: int = -1) -> list[Any]:  # fmt: skip
    return embedding_bag(c, weight, indices, offsets, mode, per_sample_weights, include_last_offset, padding_idx)


@converts("aten.embedding_bag.default", "aten.embedding_bag.padding_idx")
def embedding_bag(c: Context, weight: Expr, indices: Expr, offsets: Expr, mode: int = 0, per_sample_weights: Any = None,
                  include_last_offset: bool = False, padding_idx: Any = None) -> list[Any]:  # fmt: skip
    """Bags of equal length, as a 2-D input to nn.EmbeddingBag makes them (offsets 0, n, 2n, ...): take, then reduce."""
    length = _bag_length(c)
    if length is None or include_last_offset or padding_idx not in (None, -1):
        raise NotConvertible("bags of different lengths")
    bags = c.out_shape(0)[0]
    rows = c.take_within(weight, c.reshape(indices, [bags, length]), 0)
    if per_sample_weights is not None:
        rows = c.emit(OP.multiply(rows, c.reshape(per_sample_weights, [bags, length, 1])))
    reduce = (OP.sum, OP.mean, OP.max)[mode]
    return [c.emit(reduce(rows, [1], False)), None, None, None]


def _bag_length(c: Context) -> int | None:
    """The step of the arange that made the offsets; None if they came from anywhere else."""
    node = c.node.args[2] if c.node is not None and len(c.node.args) > 2 else None
    if str(getattr(node, "target", "")) != "aten.arange.start_step":
        return None
    args: Any = node.args  # type: ignore[union-attr]
    return int(args[2]) if args[0] == 0 and isinstance(args[2], int) else None


@converts("aten.isin.Tensor_Tensor")
def isin(c: Context, elements: Expr, test_elements: Expr, invert: bool = False) -> Expr:
    """Whether each element is among the others, by comparing all with all."""
    count = _product(c.shape(test_elements))
    dtype = torch.promote_types(c.fakes["elements"].dtype, c.fakes["test_elements"].dtype)
    shape = c.shape(elements)
    others = c.reshape(c.cast(test_elements, tvm_dtype(dtype)), [*[1] * len(shape), count])
    same = c.emit(OP.equal(c.reshape(c.cast(elements, tvm_dtype(dtype)), [*shape, 1]), others))
    found = c.cast(c.emit(OP.max(c.emit(OP.astype(same, "int8")), [len(shape)], False)), "bool")
    return c.emit(OP.logical_not(found)) if invert else found

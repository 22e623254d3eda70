"""Operators that only rearrange elements: views, permutations, slices, joins, padding. Shapes come from torch's own result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from .._context import Context, Expr, as_dim, as_expr
from .._registry import NotConvertible, converts

OP = relax.op


@converts(
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.lift_fresh_copy.default",
    "aten.lift.default",
)
def identity(c: Context, x: Expr) -> Expr:
    return x


@converts(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.unsqueeze.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.view_as.default",
    "aten.reshape_as.default",
    "aten._reshape_alias.default",
)
def reshape(c: Context, x: Expr, size: Any = None, shape: Any = None, dim: Any = None, start_dim: Any = None,
            end_dim: Any = None, sizes: Any = None, other: Any = None, stride: Any = None) -> Expr:  # fmt: skip
    """The extents that are asked for, and where none are, or one is left to torch (-1), those of torch's result. A run refuses sizes
    of its inputs for which the elements are not as many."""
    out_extents, asked_extents = c.out_shape(), size if size is not None else shape
    if other is not None:
        asked_extents = c.shape(other)
    elif sizes is not None:  # of one dimension
        axis, kept = dim % c.rank(x), c.shape(x)
        asked_extents = [*kept[:axis], *sizes, *kept[axis + 1 :]]
    asked_extents = [as_dim(extent) for extent in asked_extents or ()]
    if len(asked_extents) == len(out_extents):
        left = [i for i, extent in enumerate(asked_extents) if isinstance(extent, int) and extent < 0]
        out_extents = [
            c.means(out_extents[i] if i in left else extent, c.result.shape[i])
            for i, extent in enumerate(asked_extents)
        ]
        rest = _product([extent for i, extent in enumerate(out_extents) if i not in left])
        if left and not c.same_dims([_product(c.shape(x))], [_product(out_extents)]):
            out_extents[left[0]] = c.means(c.quotient(_product(c.shape(x)), rest), c.result.shape[left[0]])
    c.require_equal(_product(c.shape(x)), _product(out_extents), "volume")
    return c.reshape(x, out_extents)


@converts("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", bounds=True)
def squeeze(c: Context, x: Expr, dim: Any = None) -> Expr:
    """torch takes a symbolic extent for one that is not 1, and keeps it; where it is 1, the module itself would have dropped it."""
    axes = range(c.rank(x)) if dim is None else [dim] if isinstance(dim, int) else dim
    for axis in axes if c.rank(x) else ():
        c.symbols.is_not_one(c.shape(x)[axis])
    return c.reshape(x, c.out_shape())


@converts("aten.permute.default")
def permute(c: Context, x: Expr, dims: list[int]) -> Expr:
    return c.permute(x, dims)


@converts("aten.transpose.int")
def transpose(c: Context, x: Expr, dim0: int, dim1: int) -> Expr:
    return c.swap(x, dim0, dim1) if c.rank(x) else x


@converts("aten.t.default", "aten.mT.default", "aten.numpy_T.default")
def matrix_transpose(c: Context, x: Expr) -> Expr:
    return c.swap(x, -1, -2) if c.rank(x) >= 2 else x


@converts("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(c: Context, x: Expr, size: Any = None, other: Any = None) -> Expr:
    return c.broadcast(x, c.out_shape())


@converts("aten.repeat.default")
def repeat(c: Context, x: Expr, repeats: list[Any]) -> Expr:
    x = c.reshape(x, [*[1] * (len(repeats) - c.rank(x)), *c.shape(x)])
    return tile(c, x, repeats)


def tile(c: Context, x: Expr, repeats: Sequence[Any]) -> Expr:
    """x repeated along each axis, through a broadcast axis in front of each repeated one."""
    shape, spread, wide = c.shape(x), [], []
    for size, times in zip(shape, repeats):
        ones = not (isinstance(times, int) and times == 1)
        spread += [1, size] if ones else [size]
        wide += [as_dim(times), size] if ones else [size]
    merged = [size * as_dim(times) for size, times in zip(shape, repeats)]
    return c.reshape(c.broadcast(c.reshape(x, spread), wide), merged)


@converts("aten.slice.Tensor")
def slice_tensor(c: Context, x: Expr, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Expr:
    axis = dim % c.rank(x)
    size, out = c.shape(x)[axis], c.result.shape[axis]
    begin = clamped(c, start, size) if start is not None else 0
    if c.symbols.knows(out):
        return c.slice(x, axis, begin, c.dim(out), step)
    if step != 1 or (end is not None and isinstance(end, int) and end < 0):
        raise NotConvertible("a slice whose length only the data decides, with a step")
    stop = clamped(c, end, size) if end is not None else size
    length = stop if isinstance(begin, int) and begin == 0 else tirx.max(as_expr(stop) - begin, as_expr(0))
    return c.slice(x, axis, begin, length)


def clamped(c: Context, index: Any, size: Any) -> Any:
    """A bound of a slice as a position from 0 to size."""
    index = as_dim(index)
    if isinstance(index, int) and isinstance(size, int):
        return min(max(index + size if index < 0 else index, 0), size)
    if isinstance(index, int) and (index == 0 or index >= 2**62):
        return size if index else 0
    if isinstance(index, int) and index < 0:
        return tirx.max(as_expr(size) + index, as_expr(0))
    if not isinstance(index, int) and may_be_negative(c, index):
        index = tirx.Select(index < 0, index + size, index)
        return tirx.max(tirx.min(index, as_expr(size)), as_expr(0))
    return tirx.min(as_expr(index), as_expr(size))


def may_be_negative(c: Context, index: Any) -> bool:
    """Whether a symbolic index was read from data and may count from the end: sizes never are negative."""
    return any(str(v.name) in c.symbols.signed_parts for v in tirx.analysis.undefined_vars(index))


@converts("aten.select.int", bounds=True)
def select(c: Context, x: Expr, dim: int, index: Any) -> Expr:
    axis = dim % c.rank(x)
    index = as_dim(index)
    if not isinstance(index, int) and may_be_negative(c, index):
        raise NotConvertible("a position that only the data decides")
    if index == -2:
        c.symbols.has_second(c.shape(x)[axis])
    begin = index + c.shape(x)[axis] if isinstance(index, int) and index < 0 else index
    return c.reshape(c.slice(x, axis, begin, 1), c.out_shape())


@converts("aten.narrow.default")
def narrow(c: Context, x: Expr, dim: int, start: Any, length: Any) -> Expr:
    return c.slice(x, dim % c.rank(x), clamped(c, start, c.shape(x)[dim % c.rank(x)]), as_dim(length))


def _pieces(c: Context, x: Expr, axis: int, longest: Any = None) -> list[Expr]:
    """x cut along the axis into pieces of the sizes of torch's results; a run refuses sizes for which there are others, or fewer of those
    that are used."""
    pieces: list[Expr] = []
    begin: Any = 0
    for i in range(len(c.result)):
        length = c.out_shape(i)[axis]
        if longest is not None and i and c.used(i):
            c.require_at_least(length, 1)
            c.require_at_least(longest, length)
            c.require_at_least(c.shape(x)[axis], begin + length)
        pieces.append(c.slice(x, axis, begin, length))
        begin = begin + length
    return pieces


@converts("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.split.sizes",
          "aten.tensor_split.sections", "aten.tensor_split.indices")  # fmt: skip
def split(c: Context, x: Expr, split_size: Any = None, split_sizes: Any = None, chunks: Any = None, sections: Any = None,
          indices: Any = None, dim: int = 0) -> list[Expr]:  # fmt: skip
    equal = (
        split_size if not isinstance(split_size, (list, tuple)) else None
    )  # pieces, of which the last may be shorter
    return _pieces(c, x, dim % c.rank(x), c.out_shape(0)[dim % c.rank(x)] if chunks is not None else equal)


@converts("aten.unbind.int")
def unbind(c: Context, x: Expr, dim: int = 0) -> list[Expr]:
    axis = dim % c.rank(x)
    return [c.reshape(c.slice(x, axis, i, 1), c.out_shape(i)) for i in range(len(c.result))]


@converts("aten.cat.default", "aten.concat.default")
def cat(c: Context, tensors: list[Expr], dim: int = 0) -> Expr:
    if c.rank(tensors[0]) == 0:
        raise NotConvertible("concatenation of numbers")
    made = c.out_shape()
    rank = len(made)
    axis = dim % rank
    parts = [
        c.broadcast(c.cast(t, c.out_dtype()), [*made[:axis], c.shape(t)[axis], *made[axis + 1 :]])
        for t in tensors
        if c.rank(t) == rank  # torch skips empty vectors of another rank
    ]
    return parts[0] if len(parts) == 1 else c.emit(OP.concat(parts, axis=axis))


@converts("aten.stack.default")
def stack(c: Context, tensors: list[Expr], dim: int = 0) -> Expr:
    axis = dim % len(c.out_shape())
    parts = []
    made = c.out_shape()
    one = [*made[:axis], *made[axis + 1 :]]
    for tensor in tensors:
        part = c.broadcast(c.cast(tensor, c.out_dtype()), one)
        parts.append(c.reshape(part, [*one[:axis], 1, *one[axis:]]))
    return parts[0] if len(parts) == 1 else c.emit(OP.concat(parts, axis=axis))


@converts("aten.flip.default")
def flip(c: Context, x: Expr, dims: list[int]) -> Expr:
    for dim in dims if c.rank(x) else ():
        x = c.emit(OP.flip(x, dim % c.rank(x)))
    return x


@converts("aten.roll.default")
def roll(c: Context, x: Expr, shifts: list[int], dims: Sequence[int] = ()) -> Expr:
    shape = c.shape(x)
    if not dims:
        flat = c.reshape(x, [_product(shape)])
        return c.reshape(_rolled(c, flat, shifts[0], 0), shape)
    for shift, dim in zip(shifts, dims):
        x = _rolled(c, x, shift, dim % len(shape))
    return x


def _rolled(c: Context, x: Expr, shift: Any, axis: int) -> Expr:
    size, shift = c.shape(x)[axis], as_dim(shift)
    if shift == 0 if isinstance(shift, int) else size == 0:
        return x
    if isinstance(size, int) and isinstance(shift, int):
        cut = -shift % max(size, 1)
    else:  # by more than the extent too, which may be 0
        cut = tirx.floormod(as_expr(0 - shift), tirx.max(as_expr(size), as_expr(1)))
    return c.emit(OP.concat([c.slice(x, axis, cut, size - cut), c.slice(x, axis, 0, cut)], axis=axis))


def _product(shape: Sequence[Any]) -> Any:
    total: Any = 1
    for size in shape:
        total = total * size
    return total


@converts("aten.constant_pad_nd.default")
def constant_pad(c: Context, x: Expr, pad: list[Any], value: Any = 0) -> Expr:
    return padded(c, x, pad, "constant", value)


@converts("aten.pad.default")
def pad(c: Context, x: Expr, pad: list[Any], mode: str = "constant", value: Any = None) -> Expr:
    return padded(c, x, pad, mode, 0 if value is None else value)


@converts("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default")
def reflection_pad(c: Context, x: Expr, padding: list[Any]) -> Expr:
    return padded(c, x, padding, "reflect", 0)


@converts("aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default")
def replication_pad(c: Context, x: Expr, padding: list[Any]) -> Expr:
    return padded(c, x, padding, "replicate", 0)


def padded(c: Context, x: Expr, pad: Sequence[Any], mode: str, value: Any) -> Expr:
    """x padded by torch's list, last axis first; negative padding crops."""
    rank = c.rank(x)
    before, after = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = as_dim(pad[2 * i]), as_dim(pad[2 * i + 1])
    amounts = [*before, *after]
    known = all(isinstance(amount, int) for amount in amounts)
    if not known or (mode in ("reflect", "replicate") and any(amount < 0 for amount in amounts)):
        return _padded_by_position(c, x, before, after, mode, value)
    for axis in range(rank):
        cut = max(-before[axis], 0) + max(-after[axis], 0)
        if cut:
            x = c.slice(x, axis, max(-before[axis], 0), c.shape(x)[axis] - cut)
    widths = [max(w, 0) for pair in zip(before, after) for w in pair]
    if not any(widths):
        return x
    if mode == "constant":
        return _constant_padded(c, x, widths, value)
    if mode == "circular":
        return _circular(c, x, widths)
    return _by_index(c, x, widths, mode)


def _padded_by_position(c: Context, x: Expr, before: list[Any], after: list[Any], mode: str, value: Any) -> Expr:
    """Padding by amounts that may be symbolic, and of either sign: each element is read from the position that it shows."""
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise NotConvertible(f"padding of mode {mode}")
    axes = [a for a in range(c.rank(x)) if not c.same_dims([before[a], after[a]], [0, 0])]
    for axis in axes:
        _check_amounts(c, c.shape(x)[axis], before[axis], after[axis], mode)
    sizes = [size + b + a for size, b, a in zip(c.shape(x), before, after)]
    dtype = c.dtype(x)
    filling = bool(value) if dtype == "bool" else float(value) if "float" in dtype else int(value)

    def build(t: Any, extents: Any, first: Any, last: Any) -> Any:
        def element(*index: Any) -> Any:
            at = list(index)
            for axis in axes:
                at[axis] = _position(index[axis] - first[axis], t.shape[axis], first[axis], last[axis], mode)
            if mode != "constant":
                return t(*at)
            inside = tirx.all(*[bound for a in axes for bound in (at[a] >= 0, at[a] < t.shape[a])])
            return tirx.if_then_else(inside, t(*at), tirx.const(filling, dtype))

        return te.compute(tuple(extents), element, name="pad")

    return c.emit_te(build, x, sizes, before, after) if axes else x


def _position(at: Any, size: Any, before: Any, after: Any, mode: str) -> Any:
    """Where the element `at`, counted from x's first, is read; torch reflects and repeats x before it crops, and wraps what it
    has cropped."""
    if mode == "replicate":
        return tirx.max(tirx.min(at, size - 1), as_expr(0))
    if mode == "reflect":
        mirrored = tirx.Select(at < 0, 0 - at, at)
        return tirx.Select(mirrored < size, mirrored, 2 * (size - 1) - mirrored)
    if mode == "circular":
        begin = tirx.max(0 - before, as_expr(0))
        return begin + tirx.floormod(at - begin, size + tirx.min(before, as_expr(0)) + tirx.min(after, as_expr(0)))
    return at


def _check_amounts(c: Context, size: Any, before: Any, after: Any, mode: str) -> None:
    """What torch asks: no element that is cropped twice, a reflection of less than there is, at most one turn around."""
    if mode in ("reflect", "replicate"):
        c.require_at_least(size + before + after, 1)
    else:
        c.require_at_least(size + _min_extent(before, 0) + _min_extent(after, 0), 1 if mode == "circular" else 0)
    for amount in (before, after) if mode in ("reflect", "circular") else ():
        c.require_at_least(
            size - 1 if mode == "reflect" else size + _min_extent(before, 0) + _min_extent(after, 0), amount
        )


def _min_extent(a: Any, b: int) -> Any:
    return min(a, b) if isinstance(a, int) else tirx.min(a, as_expr(b))


def _constant_padded(c: Context, x: Expr, widths: list[int], value: Any) -> Expr:
    dtype = c.dtype(x)
    if dtype == "bool":
        inner = c.emit(OP.nn.pad(c.emit(OP.astype(x, "int8")), widths, "constant", float(bool(value))))
        return c.cast(inner, "bool")
    return c.emit(OP.nn.pad(x, widths, "constant", float(value)))


def _circular(c: Context, x: Expr, widths: list[int]) -> Expr:
    for axis in range(c.rank(x)):
        left, right = widths[2 * axis], widths[2 * axis + 1]
        size = c.shape(x)[axis]
        parts = [c.slice(x, axis, size - left, left)] if left else []
        parts += [x] + ([c.slice(x, axis, 0, right)] if right else [])
        if len(parts) > 1:
            x = c.emit(OP.concat(parts, axis=axis))
    return x


def _by_index(c: Context, x: Expr, widths: list[int], mode: str) -> Expr:
    if mode == "reflect":
        return c.emit(OP.nn.pad(x, widths, "reflect", 0.0))
    if mode != "replicate":
        raise NotConvertible(f"padding of mode {mode}")
    for axis in range(c.rank(x)):
        parts = []
        for width, begin in ((widths[2 * axis], 0), (0, None), (widths[2 * axis + 1], c.shape(x)[axis] - 1)):
            if begin is None:
                parts.append(x)
            elif width:
                shape = c.shape(x)
                parts.append(c.broadcast(c.slice(x, axis, begin, 1), [*shape[:axis], width, *shape[axis + 1 :]]))
        x = c.emit(OP.concat(parts, axis=axis)) if len(parts) > 1 else x
    return x


@converts("aten.pixel_shuffle.default")
def pixel_shuffle(c: Context, x: Expr, upscale_factor: int) -> Expr:
    *batch, channels, height, width = c.shape(x)
    r = upscale_factor
    count, n = channels // (r * r), len(batch)
    c.require_equal(channels, count * r * r)
    x = c.reshape(x, [*batch, count, r, r, height, width])
    x = c.permute(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return c.reshape(x, c.out_shape())


@converts("aten.pixel_unshuffle.default")
def pixel_unshuffle(c: Context, x: Expr, downscale_factor: int) -> Expr:
    *batch, channels, _, _ = c.shape(x)
    r, n = downscale_factor, len(batch)
    height, width = c.out_shape()[-2:]
    for have, whole in zip(c.shape(x)[-2:], (height * r, width * r)):
        c.require_equal(have, whole)
    x = c.reshape(x, [*batch, channels, height, r, width, r])
    x = c.permute(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return c.reshape(x, c.out_shape())


@converts("aten.as_strided.default")
def as_strided(c: Context, x: Expr, size: list[Any], stride: list[Any], storage_offset: Any = None) -> Expr:
    sizes, strides = [as_dim(v) for v in size], [as_dim(v) for v in stride]
    offset = 0 if storage_offset is None else as_dim(storage_offset)
    source = c.fakes["x"]
    if not (source.is_contiguous() and source.storage_offset() == 0):
        raise NotConvertible("a view of memory that is not dense")
    expected: list[Any] = [1]
    for extent in reversed(sizes[1:]):
        expected.insert(0, expected[0] * extent)
    expected = expected[: len(sizes)]
    whole = c.same_dims([_product(c.shape(x))], [_product(sizes)])
    if whole and c.same_dims([offset], [0]) and c.same_dims(strides, expected):
        return c.reshape(x, sizes)
    if not all(isinstance(v, int) for v in [*strides, offset]):
        raise NotConvertible("a view with strides that are dynamic")

    def build(t: Any, extents: Any) -> Any:
        def element(*index: Any) -> Any:
            return t(offset + sum(i * step for i, step in zip(index, strides)))

        return te.compute(tuple(extents), element, name="as_strided")

    return c.emit_te(build, c.reshape(x, [_product(c.shape(x))]), sizes)


@converts("aten.unfold.default", "aten.unfold_copy.default")
def unfold(c: Context, x: Expr, dimension: int, size: int, step: int) -> Expr:
    """Windows of `size` elements, `step` apart, as a new last axis."""
    if c.rank(x) == 0:
        return c.reshape(x, c.out_shape())
    axis = dimension % c.rank(x)

    def build(t: Any, extents: Any) -> Any:
        def element(*index: Any) -> Any:
            return t(*index[:axis], index[axis] * step + index[-1], *index[axis + 1 : -1])

        return te.compute(tuple(extents), element, name="unfold")

    return c.emit_te(build, x, c.out_shape())


@converts("aten.unfold_backward.default")
def unfold_backward(c: Context, grad_in: Expr, input_sizes: list[Any], dim: int, size: int, step: int) -> Expr:
    """The sum of what windows say about each element: overlap and add. Elements in no window are 0."""
    shape = c.out_shape()
    if not shape:
        return c.reshape(grad_in, shape)
    axis, dtype = dim % len(shape), c.dtype(grad_in)
    windows = c.broadcast(grad_in, [*shape[:axis], c.shape(grad_in)[axis], *shape[axis + 1 :], size])

    def build(t: Any, extents: Any) -> Any:
        before = te.reduce_axis((0, -(-size // step)), name="before")

        def element(*index: Any) -> Any:
            window = tirx.floordiv(index[axis], step) - before
            offset = index[axis] - window * step
            inside = tirx.all(window >= 0, window < t.shape[axis], offset < size)
            value = t(*index[:axis], window, *index[axis + 1 :], offset)
            return te.sum(tirx.if_then_else(inside, value, tirx.const(0, dtype)), axis=before)

        return te.compute(tuple(extents), element, name="overlap_add")

    return c.emit_te(build, windows, shape)


@converts("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(c: Context, x: Expr, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Expr:
    """Elements [.., i, .., i + offset, ..] as a new last axis."""
    first, second = dim1 % c.rank(x), dim2 % c.rank(x)
    rest = [a for a in range(c.rank(x)) if a not in (first, second)]

    def build(t: Any, extents: Any) -> Any:
        def element(*index: Any) -> Any:
            at = dict(zip(rest, index))
            at |= {first: index[-1] + max(-offset, 0), second: index[-1] + max(offset, 0)}
            return t(*[at[axis] for axis in range(len(at))])

        return te.compute(tuple(extents), element, name="diagonal")

    return c.emit_te(build, x, c.out_shape())

"""Determinants, Einstein sums, Fourier transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from ..._dft import any_dft, complex_dft, half_to_real, real_dft
from .._dims import Dim
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from ._loops import imperative, variable
from ._te import imm


@op("Det", since=[11, 22])
def det(n: Node) -> Any:
    """Gaussian elimination with partial pivoting of each matrix [..., M, M]."""
    n.float_only()
    x, dtype = n.x(0), n.dtype(0)
    dims = dims_of(x)
    n.math.require_same(dims[-1], dims[-2])
    wide = "float64" if dtype == "float64" else "float32"
    f = n.cast(x, wide)

    def body(t: Any, out_shape: Any) -> list[Any]:
        size = t.shape[len(dims) - 1]
        count: Any = imm(1, "int64")
        for d in list(t.shape)[:-2]:
            count = count * d

        def write(source: Any, out: Any, work: Any) -> None:
            best, value, swap = variable("int64"), variable(wide), variable(wide)
            with T.serial(0, count) as m:
                base = m * size * size
                with T.serial(0, size * size) as i:
                    work[base + i] = source[base + i]
                out[m] = imm(1, wide)
                with T.serial(0, size) as c:
                    best[0] = c
                    with T.serial(c, size) as r:
                        with T.If(tirx.abs(work[base + r * size + c]) > tirx.abs(work[base + best[0] * size + c])):
                            with T.Then():
                                best[0] = r
                    with T.If(best[0] != c):
                        with T.Then():
                            out[m] = imm(0, wide) - out[m]
                            with T.serial(0, size) as k:
                                swap[0] = work[base + c * size + k]
                                work[base + c * size + k] = work[base + best[0] * size + k]
                                work[base + best[0] * size + k] = swap[0]
                    out[m] = out[m] * work[base + c * size + c]
                    with T.If(work[base + c * size + c] != imm(0, wide)):
                        with T.Then():
                            with T.serial(c + 1, size) as r:
                                value[0] = work[base + r * size + c] / work[base + c * size + c]
                                with T.serial(c, size) as k:
                                    work[base + r * size + k] = (
                                        work[base + r * size + k] - value[0] * work[base + c * size + k]
                                    )

        return imperative([out_shape, t.shape], [wide, wide], [t], write, "det")

    parts = n.te(body, f, shape_expr(list(dims[:-2])), name="det")
    return n.cast(n.emit(parts[0]), dtype)


@op("Einsum", since=[12, 28])
def einsum(n: Node) -> Any:
    equation = n.str_attr("equation").replace(" ", "")
    xs = n.xs()
    dtype = n.dtype(0)
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise n.broken(f"has {len(xs)} operands for the equation '{equation}'")
    extents: dict[str, Dim] = {}
    labels: list[list[str]] = []
    widest = 0
    for term, x in zip(terms, xs, strict=True):
        free = len(dims_of(x)) - len(term.replace("...", ""))
        widest = max(widest, free) if "..." in term else widest
    for term, x in zip(terms, xs, strict=True):
        free = len(dims_of(x)) - len(term.replace("...", ""))
        head, dots, tail = term.partition("...")
        if (free and not dots) or free < 0:
            raise n.broken(f"gives rank {len(dims_of(x))} to the term '{term}'")
        names = [*head, *([f"_{widest - free + k}" for k in range(free)] if dots else []), *tail]
        for name, d in zip(names, dims_of(x), strict=True):
            extents[name] = n.math.broadcast_dim(extents[name], d) if name in extents else d
        labels.append(names)
    if arrow:
        head, dots, tail = right.partition("...")
        out = [*head, *([f"_{k}" for k in range(widest)] if dots else []), *tail]
    else:
        every = [c for t in labels for c in t]
        out = [f"_{k}" for k in range(widest)] + sorted(
            {c for c in every if not c.startswith("_") and every.count(c) == 1}
        )
    if any(c not in extents for c in out) or len(set(out)) != len(out):
        raise n.broken(f"has the impossible equation '{equation}'")
    summed = [c for c in extents if c not in out]
    fast = _as_matmul(n, labels, out, xs, extents)
    if fast is not None:
        return fast
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    order = list(extents)

    def body(*args: Any) -> Any:
        *tensors, dims = args
        size = dict(zip(order, dims, strict=True))
        axes = {c: te.reduce_axis((0, size[c]), name=f"k{i}") for i, c in enumerate(summed)}

        def element(*i: Any) -> Any:
            at = {**dict(zip(out, i, strict=True)), **axes}
            value: Any = None
            for t, names, x in zip(tensors, labels, xs, strict=True):
                index = [0 if isinstance(d, int) and d == 1 else at[c] for c, d in zip(names, dims_of(x), strict=True)]
                factor = tirx.Cast(wide, t(*index))
                value = factor if value is None else value * factor
            return te.sum(value, axis=list(axes.values())) if axes else value

        return te.compute([size[c] for c in out], element, name="einsum")

    return n.cast(n.te(body, *xs, shape_expr([extents[c] for c in order]), name="einsum"), dtype)


def _as_matmul(n: Node, labels: list[list[str]], out: list[str], xs: list[Any], extents: dict[str, Dim]) -> Any:
    """Two operands that are a batched matrix product after transposition, which has kernels."""
    if len(xs) != 2 or dtype_of(xs[0]) != "float32" or any(len(set(t)) != len(t) for t in labels):
        return None
    a, b = labels
    if any(
        not n.math.same(d, extents[c])
        for t, x in zip(labels, xs, strict=True)
        for c, d in zip(t, dims_of(x), strict=True)
    ):
        return None
    batch = [c for c in out if c in a and c in b]
    rows = [c for c in out if c in a and c not in b]
    columns = [c for c in out if c in b and c not in a]
    inner = [c for c in a if c in b and c not in out]
    if set(a) != {*batch, *rows, *inner} or set(b) != {*batch, *columns, *inner} or not inner:
        return None

    def arranged(x: Any, have: list[str], groups: list[list[str]]) -> Any:
        want = [c for g in groups for c in g]
        perm = [have.index(c) for c in want]
        t = n.emit(relax.op.permute_dims(x, perm)) if perm != list(range(len(perm))) else x
        dims = [extents[c] for c in batch] + [n.math.product([extents[c] for c in g]) for g in groups[1:]]
        return n.reshape(t, dims)

    p = arranged(xs[0], a, [batch, rows, inner])
    q = arranged(xs[1], b, [batch, inner, columns])
    y = n.emit(relax.op.matmul(p, q))
    made = [*batch, *rows, *columns]
    y = n.reshape(y, [extents[c] for c in made])
    perm = [made.index(c) for c in out]
    return n.emit(relax.op.permute_dims(y, perm)) if perm != list(range(len(perm))) else y


# ---- Fourier transforms


@op("DFT", since=[17, 20])
def dft(n: Node) -> Any:
    """[..., d, ..., 1 or 2]: the transform of one axis as a product with a matrix of roots of unity."""
    n.float_only()
    x, dtype = n.x(0), n.dtype(0)
    rank = n.rank(0)
    if any(n.has(i) and n.value(i).const is None for i in (1, 2)) or not isinstance(n.shape(0)[-1], int):
        return _runtime_dft(n)
    if n.version >= 20:
        axis = int(n.scalar(2, "axis")) if n.has(2) else -2
    else:
        axis = n.int_attr("axis", 1)
    axis = n.axis(axis, rank)
    extent = n.shape(0)[axis]
    if not isinstance(extent, int):
        return _runtime_dft(n)
    if n.has(1):
        length = int(n.scalar(1, "dft_length"))
    else:  # half a spectrum belongs to a signal of twice its length
        length = 2 * (extent - 1) if n.flag("inverse") and n.flag("onesided") else extent
    return n.cast(
        _dft(
            n,
            n.cast(x, "float64" if dtype == "float64" else "float32"),
            axis,
            length,
            n.flag("inverse"),
            n.flag("onesided"),
        ),
        dtype,
    )


def _dft(n: Node, x: Any, axis: int, length: int, inverse: bool, onesided: bool) -> Any:
    """The transform of an axis of fixed size, cut or filled with zeros to the length that it needs."""
    dims = list(dims_of(x))
    parts, rank = dims[-1], len(dims) - 1
    if parts not in (1, 2):
        raise n.broken(f"needs a last dimension of 1 or 2, not {parts}")
    if axis == rank:
        raise n.broken(f"transforms axis {axis}, which holds the parts of a complex number")
    needed = length // 2 + 1 if onesided and inverse else length
    front = [a for a in range(rank) if a != axis]

    def part(i: int) -> Any:
        value = n.reshape(n.emit(relax.op.strided_slice(x, [rank], [i], [i + 1])), dims[:-1])
        value = n.emit(relax.op.permute_dims(value, [*front, axis]))
        if needed < dims[axis]:
            return n.emit(relax.op.strided_slice(value, [rank - 1], [0], [needed]))
        widths = [0] * (2 * rank - 1) + [needed - dims[axis]]
        return n.emit(relax.op.nn.pad(value, widths, "constant", 0.0)) if widths[-1] else value

    def back(value: Any) -> Any:
        back_at = [*range(axis), rank - 1, *range(axis, rank - 1)]
        value = n.emit(relax.op.permute_dims(value, back_at))
        return n.reshape(value, [*dims_of(value), 1])

    real, imag = part(0), part(1) if parts == 2 else None
    scale = 1 / length if inverse else 1.0
    if onesided and inverse:  # the other half of the spectrum is the conjugate of this one; the result is real
        return back(half_to_real(n.emit, real, imag, length, scale))
    if onesided and imag is None:
        found = real_dft(n.emit, real, scale)
    else:
        found = complex_dft(n.emit, real, imag, inverse, scale)
    values = [back(value) for value in found]
    if onesided:
        values = [n.emit(relax.op.strided_slice(v, [axis], [0], [length // 2 + 1])) for v in values]
    return n.emit(relax.op.concat(values, axis=rank))


def _runtime_dft(n: Node) -> Any:
    """An axis, an extent or a length that only a run knows: one computed vector gives them and the result's extents."""
    x, rank, parts = n.x(0), n.rank(0), n.shape(0)[-1]
    if parts not in (1, 2):
        raise n.broken(f"needs a last dimension of 1 or 2, not {parts}")
    inverse, onesided = n.flag("inverse"), n.flag("onesided")
    default = -2 if n.version >= 20 else n.int_attr("axis", 1)
    axis_of = n.x(2) if n.has(2) else constant(np.array(default, np.int64))
    given = [n.x(1)] if n.has(1) else []

    def plan(axis: Any, dims: Any, *length: Any) -> Any:
        def at(t: Any) -> Any:
            return tirx.Cast("int64", t(*[0] * len(t.shape)))

        zero = tirx.IntImm("int64", 0)

        def element(i: Any) -> Any:
            a = tirx.Select(at(axis) < zero, at(axis) + rank, at(axis))
            extent = zero
            for d in range(rank - 1):
                extent = tirx.Select(a == d, dims[d], extent)
            total = at(length[0]) if length else (extent - 1) * 2 if inverse and onesided else extent
            bins = tirx.floordiv(total, 2) + 1 if onesided and not inverse else total
            legal = tirx.all(a >= zero, a < rank - 1, total > zero)
            out = tirx.Select(legal, a, tirx.IntImm("int64", -1))  # a run refuses to bind what is negative
            out = tirx.Select(i == 1, total, out)
            for d in range(rank - 1):
                out = tirx.Select(i == d + 2, tirx.Select(a == d, bins, dims[d]), out)
            return out

        return te.compute((rank + 1,), element, name="dft_plan")

    vector = n.te(plan, axis_of, shape_expr(n.shape(0)), *given, name="dft_plan")
    axis, length, *out = n.graph.bind_tensor(vector, rank + 1, n.place)
    wide = "float64" if n.dtype(0) == "float64" else "float32"
    return n.cast(_any_dft(n, n.cast(x, wide), axis, length, out, inverse, onesided), n.dtype(0))


def _any_dft(n: Node, x: Any, axis: Dim, length: Dim, out: list[Any], inverse: bool, onesided: bool) -> Any:
    """The transform along an axis that is a number or a symbol."""
    real_out = inverse and onesided

    def body(t: Any, dims: Any, shape: Any) -> Any:
        return any_dft(t, dims[0], dims[1], list(shape), inverse, real_out)

    return n.te(body, x, shape_expr([axis, length]), shape_expr([*out, 1 if real_out else 2]), name="dft")


@op("STFT", since=17)
def stft(n: Node) -> Any:
    """signal [B, L, 1 or 2], frame_step, window?, frame_length? -> [B, frames, bins, 2]"""
    n.float_only()
    x = n.x(0)
    step = n.extent(1, "frame_step")
    window = n.x(2) if n.has(2) else None
    length: Dim
    if n.has(3):
        length = n.extent(3, "frame_length")
    elif window is not None:
        length = dims_of(window)[0]
    else:
        raise n.broken("has neither a window nor a frame_length")
    if window is not None:
        n.math.require_same(dims_of(window)[0], length)
    dims = list(dims_of(x))
    if not 2 <= len(dims) <= 3:
        raise n.broken(f"takes a signal of rank 2 or 3, not {len(dims)}")
    if len(dims) == 2:
        x = n.reshape(x, [*dims, 1])
        dims = [*dims, 1]
    frames = n.math.add(n.math.floordiv(n.math.sub(dims[1], length), step), 1)

    def body(t: Any, shape: Any, steps: Any, *w: Any) -> Any:
        def element(b: Any, f: Any, k: Any, part: Any) -> Any:
            value = t(b, f * steps[0] + k, part)
            return value * w[0](k) if w else value

        return te.compute(shape, element, name="frames")

    framed = n.te(
        body,
        x,
        shape_expr([dims[0], frames, length, dims[2]]),
        shape_expr([step]),
        *([window] if window is not None else []),
        name="frames",
    )
    onesided = n.flag("onesided", 1)
    if isinstance(length, int):
        return _dft(n, framed, 2, length, False, onesided)
    bins = n.math.add(n.math.floordiv(length, 2), 1) if onesided else length
    return _any_dft(n, framed, 2, length, [dims[0], frames, bins], False, onesided)

"""Operators of com.microsoft that stand alone: crops of boxes, hashes, warped time."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from .._exprs import shape_expr
from .._node import Node
from .._registry import op, string_op
from .._strings import bytes_of, width_of
from .._values import bits_of
from ._loops import imperative, variable
from ._te import imm

_MS = "com.microsoft"
_W = "uint64"  # words of 32 bits: TVM leaves undefined what overflows its own type


@op("CropAndResize", domain=_MS)
def crop_and_resize(n: Node) -> Any:
    """X [N, C, H, W], rois [R, 4] as y1 x1 y2 x2 of 0 to 1, batch_indices [R], crop_size [2] -> [R, C, h, w], corners on corners."""
    n.float_only()
    nearest = n.choice("mode", "bilinear", "nearest") == "nearest"
    outside = n.float_attr("extrapolation_value", 0.0)
    dtype, sizes = n.dtype(0), n.dims(3, "crop_size")
    if n.rank(0) != 4 or n.rank(1) != 2 or len(sizes) != 2:
        raise n.broken(f"crops an image of rank {n.rank(0)} by boxes of rank {n.rank(1)} to {len(sizes)} sizes")
    n.math.require_same(n.shape(1)[1], 4)
    n.math.require_same(n.shape(1)[0], n.shape(2)[0])
    wide = "float64" if dtype == "float64" else "float32"

    def body(t: Any, boxes: Any, index: Any, shape: Any) -> Any:
        def place(r: Any, first: int, extent: Any, step: Any, steps: Any) -> Any:
            """Where a row or a column of a crop lies in the image."""
            low, high = boxes(r, first), boxes(r, first + 2)
            span = tirx.Cast(wide, extent - 1)
            between = (high - low) * span / tirx.Cast(wide, tirx.max(steps - 1, imm(1, "int64")))
            inside = low * span + tirx.Cast(wide, step) * between
            return tirx.Select(steps > 1, inside, imm(0.5, wide) * (low + high) * span)

        def element(r: Any, c: Any, i: Any, j: Any) -> Any:
            height, width = t.shape[2], t.shape[3]
            image = tirx.max(imm(0, "int64"), tirx.min(tirx.Cast("int64", index(r)), t.shape[0] - 1))
            y, x = place(r, 0, height, i, shape[2]), place(r, 1, width, j, shape[3])
            zero, top, right = imm(0, wide), tirx.Cast(wide, height - 1), tirx.Cast(wide, width - 1)
            there = tirx.all(y >= zero, y <= top, x >= zero, x <= right)

            def at(row: Any, column: Any) -> Any:
                row, column = (tirx.Cast("int64", tirx.Select(there, v, zero)) for v in (row, column))
                return tirx.Cast(wide, t(image, c, row, column))

            if nearest:
                found = at(tirx.floor(y + imm(0.5, wide)), tirx.floor(x + imm(0.5, wide)))
            else:
                low, left = tirx.floor(y), tirx.floor(x)
                down, across = y - low, x - left
                upper, lower = (
                    at(row, left) + (at(row, tirx.ceil(x)) - at(row, left)) * across for row in (low, tirx.ceil(y))
                )
                found = upper + (lower - upper) * down
            return tirx.Cast(dtype, tirx.if_then_else(there, found, imm(outside, wide)))

        return te.compute(shape, element, name="crops")

    shape = shape_expr([n.shape(1)[0], n.shape(0)[1], *sizes])
    return n.te(body, n.x(0), n.cast(n.x(1), wide), n.x(2), shape, name="crops")


@op("MurmurHash3", domain=_MS)
def murmur_hash(n: Node) -> Any:
    """The hash MurmurHash3_x86_32 (A. Appleby) of each number's bytes."""
    dims, dtype = n.shape(0), n.dtype(0)
    if dtype not in ("int32", "uint32", "int64", "uint64", "float32", "float64"):
        raise n.refuse(f"of {dtype}")
    rows, bits = n.math.product(dims), bits_of(dtype)
    word = f"uint{bits}"

    def apart(x: Any, extents: Any) -> Any:
        def byte(r: Any, k: Any) -> Any:
            whole = tirx.shift_right(tirx.reinterpret(word, x(r)), tirx.Cast(word, k * 8))
            return tirx.Cast("uint8", tirx.bitwise_and(whole, tirx.const(255, word)))

        return te.compute(extents, byte, name="bytes")

    numbers = n.reshape(n.x(0), [rows])
    return _hashed(n, n.te(apart, numbers, shape_expr([rows, bits // 8]), name="bytes"), text=False)


@string_op("MurmurHash3", domain=_MS)
def murmur_hash_of_strings(n: Node) -> Any:
    """The hash of each string's bytes."""
    x = bytes_of(n.value(0))
    return _hashed(n, n.reshape(x, [n.math.product(n.shape(0)), width_of(x)]), text=True)


def _hashed(n: Node, x: Any, *, text: bool) -> Any:
    """The hash of each row of bytes [rows, bytes]; of a text, up to the zeros behind it."""
    seed = n.int_attr("seed", 0) & 0xFFFFFFFF

    def number(value: int) -> Any:
        return tirx.const(value, _W)

    def low(v: Any) -> Any:
        return tirx.bitwise_and(v, number(0xFFFFFFFF))

    def turned(v: Any, by: int) -> Any:
        return tirx.bitwise_or(low(tirx.shift_left(v, number(by))), tirx.shift_right(v, number(32 - by)))

    def scrambled(block: Any) -> Any:
        return low(turned(low(block * number(0xCC9E2D51)), 15) * number(0x1B873593))

    def body(x: Any) -> Any:
        rows, wide = x.shape

        def write(x: Any, out: Any) -> None:
            h, length, block = variable(_W), variable("int64"), variable(_W)
            with T.serial(0, rows) as r:
                h[0] = number(seed)
                length[0] = tirx.Cast("int64", wide)
                if text:
                    length[0] = imm(0, "int64")
                    with T.serial(0, wide) as k:
                        with T.If(x[r * wide + k] != imm(0, "uint8")):
                            with T.Then():
                                length[0] = k + 1

                def take(k: Any, place: int) -> Any:
                    inside = k * 4 + place < length[0]
                    byte = tirx.if_then_else(inside, x[r * wide + k * 4 + place], imm(0, "uint8"))
                    return tirx.shift_left(tirx.Cast(_W, byte), number(8 * place))

                with T.serial(0, (wide + 3) // 4) as k:
                    with T.If(k * 4 < length[0]):
                        with T.Then():
                            block[0] = number(0)
                            for place in range(4):
                                block[0] = tirx.bitwise_or(block[0], take(k, place))
                            h[0] = tirx.bitwise_xor(h[0], scrambled(block[0]))
                            with T.If(k * 4 + 4 <= length[0]):
                                with T.Then():
                                    h[0] = low(turned(h[0], 13) * number(5) + number(0xE6546B64))
                h[0] = tirx.bitwise_xor(h[0], tirx.Cast(_W, length[0]))
                for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
                    h[0] = low(tirx.bitwise_xor(h[0], tirx.shift_right(h[0], number(shift))) * number(factor))
                out[r] = tirx.Cast("uint32", h[0])

        return imperative([[rows]], ["uint32"], [x], write, "hash")[0]

    hashes = n.te(body, x, name="hash")
    if not n.flag("positive", 1):
        hashes = n.emit(relax.op.memory.view(hashes, None, "int32"))
    return n.reshape(hashes, n.shape(0))


@op("DynamicTimeWarping", domain=_MS)
def dynamic_time_warping(n: Node) -> Any:
    """The cheapest path through costs [M, N] or [1, M, N] from the first to the last, in steps of one: its rows and columns, int32 [2, length]."""
    n.float_only()
    dims = n.shape(0)
    if len(dims) == 3:
        n.math.require_same(dims[0], 1)
    if len(dims) not in (2, 3):
        raise n.broken(f"walks through costs of rank {len(dims)}")
    rows, columns = dims[-2:]
    costs = n.reshape(n.cast(n.x(0), "float32"), [rows, columns])
    longest = n.math.add(rows, columns)

    def walk(x: Any, extents: Any) -> list[Any]:
        high, wide = x.shape

        def write(x: Any, total: Any, came: Any, path: Any, length: Any) -> None:
            i, j, best = variable("int64"), variable("int64"), variable("float32")
            step, zero, one = variable("int32"), imm(0, "int64"), imm(1, "int64")
            width = wide + 1
            with T.serial(0, (high + 1) * width) as k:
                total[k] = tirx.infinity("float32")
                came[k] = tirx.Select(k < width, imm(2, "int32"), imm(1, "int32"))
            total[zero] = imm(0, "float32")
            with T.serial(0, wide) as c, T.serial(0, high) as r:
                both, up, left = total[r * width + c], total[r * width + c + 1], total[(r + 1) * width + c]
                best[0], step[0] = left, imm(2, "int32")
                with T.If(tirx.all(up < both, up < left)):
                    with T.Then():
                        best[0], step[0] = up, imm(1, "int32")
                with T.If(tirx.all(both < up, both < left)):
                    with T.Then():
                        best[0], step[0] = both, imm(0, "int32")
                total[(r + 1) * width + c + 1] = x[r * wide + c] + best[0]
                came[(r + 1) * width + c + 1] = step[0]
            i[0], j[0], length[zero] = high, wide, zero
            with T.While(tirx.any(i[0] > zero, j[0] > zero)):
                path[length[zero]] = tirx.Cast("int32", i[0] - 1)
                path[extents[0] + length[zero]] = tirx.Cast("int32", j[0] - 1)
                length[zero] = length[zero] + 1
                step[0] = came[i[0] * width + j[0]]
                i[0] = tirx.Select(step[0] == 2, i[0], i[0] - one)
                j[0] = tirx.Select(step[0] == 1, j[0], j[0] - one)

        shapes = [[high + 1, wide + 1], [high + 1, wide + 1], [2, extents[0]], [1]]
        return imperative(shapes, ["float32", "int32", "int32", "int64"], [x], write, "walk")

    found = n.te(walk, costs, shape_expr([longest]), name="walk")
    path, length = (n.emit(relax.TupleGetItem(found, k)) for k in (2, 3))
    count = n.graph.bind_tensor(length, 1, n.place)[0]

    def forwards(path: Any, extents: Any) -> Any:
        return te.compute(extents, lambda s, k: path(s, extents[1] - 1 - k), name="forwards")

    return n.te(forwards, path, shape_expr([2, count]), name="forwards")

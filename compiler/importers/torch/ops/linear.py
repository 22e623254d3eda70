"""Matrix products. A linear layer stays whole: matmul with the transposed weight, then the bias."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .._context import Context, Expr
from .._registry import NotConvertible, converts

OP = relax.op


def product(c: Context, a: Expr, b: Expr) -> Expr:
    """a @ b; half precision is accumulated in float32, as torch does."""
    result = c.dtype(a)
    if result in ("float16", "bfloat16"):
        return c.cast(c.emit(OP.matmul(c.cast(a, "float32"), c.cast(b, "float32"))), result)
    if result == "bool":
        raise NotConvertible("a product of bool matrices")
    return c.emit(OP.matmul(a, b))


def _plus(c: Context, y: Expr, bias: Expr | None) -> Expr:
    return y if bias is None else c.emit(OP.add(y, bias))


@converts("aten.linear.default")
def linear(c: Context, input: Expr, weight: Expr, bias: Expr | None = None) -> Expr:
    """input [..., K], weight [N, K], bias [N] -> [..., N]"""
    return _plus(c, product(c, input, c.swap(weight, 0, 1) if c.rank(weight) == 2 else weight), bias)


@converts("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
def matmul(c: Context, x: Expr, other: Any = None, mat2: Any = None, vec: Any = None, tensor: Any = None) -> Expr:
    right = next(v for v in (other, mat2, vec, tensor) if v is not None)
    return product(c, x, right)


def _scaled(c: Context, x: Expr, factor: Any) -> Expr:
    return x if factor == 1 else c.emit(OP.multiply(x, c.tensor(factor, c.dtype(x))))


def _added(c: Context, x: Expr, y: Expr, beta: Any, alpha: Any) -> Expr:
    if beta == 0:
        return _scaled(c, y, alpha)
    return c.emit(OP.add(_scaled(c, y, alpha), _scaled(c, x, beta)))


@converts("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(c: Context, x: Expr, mat1: Any = None, mat2: Any = None, batch1: Any = None, batch2: Any = None, mat: Any = None,
          vec: Any = None, beta: Any = 1, alpha: Any = 1) -> Expr:  # fmt: skip
    left = next(v for v in (mat1, batch1, mat) if v is not None)
    right = next(v for v in (mat2, batch2, vec) if v is not None)
    return _added(c, x, product(c, left, right), beta, alpha)


@converts("aten.addbmm.default")
def addbmm(c: Context, x: Expr, batch1: Expr, batch2: Expr, beta: Any = 1, alpha: Any = 1) -> Expr:
    """beta * x + alpha * the sum over the batch of batch1 @ batch2"""
    return _added(c, x, c.emit(OP.sum(product(c, batch1, batch2), [0], False)), beta, alpha)


@converts("aten.bilinear.default")
def bilinear(c: Context, input1: Expr, input2: Expr, weight: Expr, bias: Expr | None = None) -> Expr:
    """input1 [..., I], input2 [..., J], weight [O, I, J] -> [..., O]: the outer product, flattened, times the weight."""
    count, rows, columns = c.static_shape(weight)
    lead = c.shape(input1)[:-1]
    left, right = c.reshape(input1, [*lead, rows, 1]), c.reshape(input2, [*lead, 1, columns])
    outer = c.reshape(c.emit(OP.multiply(left, right)), [*lead, rows * columns])
    flat = c.reshape(weight, [count, rows * columns])
    return _plus(c, product(c, outer, c.swap(flat, 0, 1)), bias)


@converts(
    "torch_nn._linear_cross_entropy_batch_chunked.default",
    "torch_nn._linear_cross_entropy_batch_chunked_no_reduction.default",
)
def linear_cross_entropy(c: Context, input: Expr, linear_weight: Expr, target: Expr, linear_bias: Any = None, weight: Any = None,
                         reduction: str = "none", ignore_index: int = -100, label_smoothing: float = 0.0, batch_chunk_size: Any = None,
                         acc_policy: Any = None, acc_dtype: Any = None, allow_retain_graph: Any = None,
                         compute_input_grad: bool = False, compute_linear_weight_grad: bool = False,
                         compute_linear_bias_grad: bool = False) -> Any:  # fmt: skip
    """The cross entropy of a linear layer's result [N, C] and classes [N]: torch goes through it in chunks, to the same effect."""
    dtype = c.dtype(input)
    if (
        dtype not in ("float32", "float64")
        or compute_input_grad
        or compute_linear_weight_grad
        or compute_linear_bias_grad
    ):
        raise NotConvertible(f"{dtype}, or gradients")
    if c.dtype(target) not in ("int64", "int32") or c.rank(input) != 2:
        raise NotConvertible("targets that are not one class a row")
    rows, classes = c.shape(input)[0], c.shape(linear_weight)[0]
    scores = c.emit(OP.nn.log_softmax(linear(c, input, linear_weight, linear_bias), 1))
    zero = c.const(0, "int64")
    target = c.cast(target, "int64")
    counts = c.emit(OP.not_equal(target, c.const(ignore_index, "int64")))
    safe = c.reshape(c.where(counts, target, zero), [rows, 1])
    chosen = c.reshape(c.emit(OP.gather_elements(scores, safe, 1)), [rows])
    each = c.cast(counts, dtype)
    if weight is not None:
        each = c.emit(OP.multiply(each, c.take(weight, c.reshape(safe, [rows]), 0)))
        scores = c.emit(OP.multiply(scores, weight))
    loss = c.emit(OP.multiply(each, c.emit(OP.negative(chosen))))
    if label_smoothing:
        spread = c.emit(OP.multiply(c.emit(OP.sum(scores, [1], False)), c.cast(counts, dtype)))
        share = c.emit(OP.divide(c.const(-label_smoothing, dtype), c.tensor(classes, dtype)))
        kept = c.emit(OP.multiply(loss, c.const(1 - label_smoothing, dtype)))
        loss = c.emit(OP.add(kept, c.emit(OP.multiply(spread, share))))
    if "no_reduction" in str(c.node.target if c.node is not None else ""):
        return loss
    total = c.emit(OP.sum(loss, None, False))
    if reduction == "mean":
        total = c.emit(OP.divide(total, c.emit(OP.sum(each, None, False))))
    return [total, None, None, None]

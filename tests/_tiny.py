"""Model files written by hand, step by step: what the runtime's tests run without a compiler."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas_rt import _container, _kernels
from maas_rt._plan import (
    Arg,
    ArgKind,
    Attr,
    Block,
    Encoding,
    Entry,
    Expr,
    ExprOp,
    Plan,
    State,
    Step,
    StepKind,
    Storage,
    Symbol,
    Value,
    encode,
)

_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
Dim = int | str


class Builder:
    """Collects values and steps of one entry point, "main"; values are their indices in the plan."""

    def __init__(self, name: str = "tiny") -> None:
        self.plan = Plan(name=name)
        self.weights = bytearray()
        self.blocks: list[Block] = [Block("main")]
        self.plan.blocks = self.blocks
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.written: list[int] = []

    def symbol(self, name: str, low: int = 1, high: int = -1) -> None:
        """A dimension known only at run time; dims then name it."""
        self.plan.symbols.append(Symbol(name, low, high))

    def expr(self, dim: Dim) -> int:
        """The expression of a number or of a symbol."""
        if isinstance(dim, int):
            expr = Expr(ExprOp.CONSTANT, dim)
        else:
            expr = Expr(ExprOp.SYMBOL, [s.name for s in self.plan.symbols].index(dim))
        if expr not in self.plan.exprs:
            self.plan.exprs.append(expr)
        return self.plan.exprs.index(expr)

    def value(self, name: str, dims: Sequence[Dim], dtype: str = "float32", **fields: Any) -> int:
        """A tensor that a step defines."""
        kind = np.dtype(dtype)
        self.plan.values.append(
            Value(
                name,
                dtype_code=_CODES[kind.kind],
                dtype_bits=kind.itemsize * 8,
                dims=[self.expr(d) for d in dims],
                **fields,
            )
        )
        return len(self.plan.values) - 1

    def input(self, name: str, dims: Sequence[Dim], dtype: str = "float32") -> int:
        self.inputs.append(self.value(name, dims, dtype, storage=Storage.INPUT))
        return self.inputs[-1]

    def constant(self, name: str, array: NDArray[Any], packed: bytes | None = None) -> int:
        """A tensor of the file; `packed` is what is stored for it where a kernel wants another layout."""
        data = array.tobytes() if packed is None else packed
        self.weights += bytes(-len(self.weights) % 64)
        at = len(self.weights)
        self.weights += data
        return self.value(name, array.shape, array.dtype.name, storage=Storage.CONSTANT, offset=at, bytes=len(data))

    def sparse(self, name: str, dims: Sequence[int], values: NDArray[Any], indices: NDArray[Any], bits: int) -> int:
        """A constant that is stored N:M, its numbers and their indices [..., n] with one of its axes in groups."""
        each = 8 // bits
        flat = np.pad(indices.reshape(-1), (0, -indices.size % each)).reshape(-1, each)
        packed = (flat << np.arange(0, 8, bits)).sum(1).astype(np.uint8)
        at = self.constant(f"{name}.indices", packed)
        self.plan.values[at].dtype_bits = bits
        self.plan.values[at].dims = [self.expr(extent) for extent in indices.shape]
        value = self.constant(name, values)
        self.plan.values[value].encoding, self.plan.values[value].base = Encoding.N_M, at
        self.plan.values[value].dims = [self.expr(extent) for extent in dims]
        return value

    def state(self, name: str, initial: NDArray[Any]) -> int:
        """A value that the model remembers; it starts as `initial`."""
        first = self.constant(name + ".init", initial)
        index = len(self.plan.states)
        value = self.value(name, initial.shape, initial.dtype.name, storage=Storage.STATE, base=index)
        self.plan.values[value].kind = 4  # type: ignore[assignment]
        self.plan.states.append(State(name, value, first))
        return value

    def step(
        self,
        kind: StepKind,
        args: Sequence[int | None],
        outs: Sequence[int],
        target: str = "",
        attrs: Mapping[str, Any] | None = None,
        packing: str = "",
        block: int = 0,
        **fields: Any,
    ) -> None:
        """Appends a step; None among the arguments is an absent one."""
        self.blocks[block].steps.append(
            Step(
                kind,
                name=f"{target or kind.name.lower()}.{len(self.blocks[block].steps)}",
                target=target,
                packing=packing,
                args=[Arg(ArgKind.ABSENT) if a is None else Arg(ArgKind.VALUE, a) for a in args],
                outs=list(outs),
                attrs=[_attr(key, value) for key, value in sorted((attrs or {}).items())],
                **fields,
            )
        )

    def kernel(self, contract: str, args: Sequence[int | None], outs: Sequence[int], **attrs: Any) -> None:
        self.step(StepKind.KERNEL, args, outs, contract, attrs)

    def gemm(
        self,
        x: int,
        weight: NDArray[np.float32],
        out: int,
        bias: int | None = None,
        residual: int | None = None,
        **attrs: Any,
    ) -> None:
        """y = act(x @ weight + bias), with a weight of shape [K, N]."""
        k, n = weight.shape
        attrs = {"k": k, "n": n, **attrs}
        packing = "gemm_f32_nr16_v1"
        packed = _kernels.pack("gemm_f32", packing, weight, attrs)
        w = self.constant(f"w{len(self.plan.values)}", weight, packed)
        self.step(StepKind.KERNEL, [x, w, bias, residual], [out], "gemm_f32", attrs, packing)

    def copy(self, source: int, destination: int) -> None:
        self.step(StepKind.COPY, [source], [destination])

    def sections(self, *outputs: int) -> list[_container.Section]:
        """The file's sections, with these outputs."""
        plan = self.plan
        plan.blocks[0].results = list(outputs)
        states = [s.value for s in plan.states]
        written = {out for block in plan.blocks for step in block.steps for out in step.outs}
        plan.entries = [
            Entry(
                "main",
                inputs=self.inputs,
                outputs=list(outputs),
                reads=list(range(len(states))),
                writes=[i for i, value in enumerate(states) if value in written],
            )
        ]
        manifest = {"format": 1, "name": plan.name, "targets": [], "verified": {"status": "skipped"}}
        return [
            _container.Section(_container.SectionKind.MANIFEST, json.dumps(manifest, sort_keys=True).encode()),
            _container.Section(_container.SectionKind.PLAN, encode(plan)),
            _container.Section(_container.SectionKind.WEIGHTS, bytes(self.weights)),
        ]

    def file(self, *outputs: int) -> bytes:
        """The file's bytes, with these outputs."""
        return b"".join(_container.write(self.sections(*outputs)))


def _attr(key: str, value: Any) -> Attr:
    if isinstance(value, str):
        return Attr(key, text=value)
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(each, float) for each in values):
        return Attr(key, floats=values)
    return Attr(key, ints=values)


def softmax(dims: Sequence[Dim] = ("n", 4), high: int = 64) -> bytes:
    """x -> y, softmax over the last axis; "n" is a dimension of 1 to `high`."""
    b = Builder("softmax")
    b.symbol("n", 1, high)
    x = b.input("x", dims)
    y = b.value("y", dims)
    b.kernel("softmax_f32", [x], [y])
    return b.file(y)


def reference_softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]


MLP_WEIGHTS = [np.random.default_rng(0).standard_normal(s).astype(np.float32) / 4 for s in ((16, 32), (32, 8))]


def mlp(batch: Dim = 1) -> bytes:
    """x [batch, 16] -> relu(x @ w0) @ w1 [batch, 8]."""
    b = Builder("mlp")
    b.symbol("batch", 1, 1024)
    x = b.input("x", [batch, 16])
    h = b.value("h", [batch, 32])
    y = b.value("y", [batch, 8])
    b.gemm(x, MLP_WEIGHTS[0], h, act="relu")
    b.gemm(h, MLP_WEIGHTS[1], y)
    return b.file(y)


def reference_mlp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(x @ MLP_WEIGHTS[0], 0) @ MLP_WEIGHTS[1]  # type: ignore[no-any-return]


def two_outputs() -> bytes:
    """a [2, 3], b [2, 3] int64 -> aa [4, 3] float32 (a twice), bt [3, 2] int64 (b transposed)."""
    b = Builder("two")
    left = b.input("a", [2, 3])
    right = b.input("b", [2, 3], "int64")
    stacked = b.value("aa", [4, 3])
    turned = b.value("bt", [3, 2], "int64")
    b.kernel("concat", [left, left], [stacked], axis=0)
    b.kernel("transpose", [right], [turned], perm=[1, 0])
    return b.file(stacked, turned)


def strings() -> bytes:
    """a, b: strings [n] of the same width -> y: strings [2, n], a above b."""
    b = Builder("strings")
    b.symbol("n", 1, 8)
    b.symbol("w", 1, 64)
    left, right = b.input("a", [1, "n", "w"], "uint8"), b.input("b", [1, "n", "w"], "uint8")
    y = b.value("y", [2, "n", "w"], "uint8")
    b.kernel("concat", [left, right], [y], axis=0)
    sections = b.sections(y)
    manifest = json.loads(sections[0].data)
    manifest["source"] = {"framework": "onnx", "kind": "onnx", "strings": ["a", "b", "y"]}
    sections[0] = _container.Section(_container.SectionKind.MANIFEST, json.dumps(manifest).encode())
    return b"".join(_container.write(sections))


def accumulator(rows: int = 1) -> bytes:
    """x [rows, 4] -> the running sum of x, kept in the state "sum", which starts at 10."""
    b = Builder("accumulator")
    x = b.input("x", [rows, 4])
    total = b.state("sum", np.full((rows, 4), 10, np.float32))
    y = b.value("y", [rows, 4])
    b.gemm(x, np.eye(4, dtype=np.float32), y, residual=total)
    b.copy(y, total)
    return b.file(y)


def gather() -> bytes:
    """table [5, 2], i [3] int64 -> rows of table; an index out of range is an error of the run."""
    b = Builder("gather")
    table = b.input("table", [5, 2])
    index = b.input("i", [3], "int64")
    rows = b.value("rows", [3, 2])
    b.kernel("gather", [table, index], [rows], axis=0)
    return b.file(rows)


def noise() -> bytes:
    """x [n, k] -> y, normal noise of the shape of x."""
    b = Builder("noise")
    b.symbol("n", 0)
    b.symbol("k", 0)
    b.input("x", ["n", "k"])
    seed = b.value("seed", [1], "uint64", storage=Storage.SEED)
    y = b.value("y", ["n", "k"])
    b.kernel("random_normal_f32", [seed], [y], number=1)
    return b.file(y)


def endless() -> bytes:
    """x [1, 4] -> never: a loop without a limit, which only a deadline or a cancel token ends."""
    b = Builder("endless")
    x = b.input("x", [1, 4])
    body = len(b.blocks)
    number = b.value("number", [], "int64")
    carried = b.value("carried", [1, 4])
    after = b.value("after", [1, 4])
    go = b.constant("go", np.array(True))
    b.blocks.append(Block("body", params=[number, carried]))
    b.step(StepKind.KERNEL, [carried], [after], "softmax_f32", block=body)
    b.blocks[body].results = [go, after]
    y = b.value("y", [1, 4])
    b.step(StepKind.LOOP, [None, None, x], [y], blocks=[body])
    return b.file(y)

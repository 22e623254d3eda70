"""What a converter works with: the node that is converted, its result's type, and small helpers that emit Relax."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import tvm
import tvm.sym
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Promotion
from torch._prims_common import elementwise_dtypes
from tvm import relax, te, tirx

from ... import ir
from ..._constants import constant_of
from .._noise import Noise
from .._run_checks import RunCheck, readable
from ._dtypes import to_numpy, tvm_dtype
from ._places import operator_name, place_of
from ._registry import NotConvertible
from ._symbols import Dim, Symbols

__all__ = ["Context", "Expr", "Promotion"]

Expr = Any  # a Relax expression that is a tensor
_OPAQUE = 8  # TVM's kOpaque
_ANALYZER = tvm.sym.Analyzer()


class Context:
    """Emits the bindings of one graph node. `fakes` are the node's arguments as torch saw them (fake tensors, numbers)."""

    def __init__(self, builder: relax.BlockBuilder, symbols: Symbols) -> None:
        self.bb = builder
        self.symbols = symbols
        self.constants: dict[Any, Expr] = {}
        self.scalar_tensors: dict[str, Expr] = {}  # numbers that `item` read: tensors of rank 0 by their symbol
        self.node: torch.fx.Node | None = None
        self.fakes: dict[str, Any] = {}
        self.result: Any = None  # the node's meta["val"]
        self.noise = Noise()
        self.numbers: Mapping[torch.fx.Node, int] = {}  # of the random operators; set by the importer
        self.nested = False  # inside of a branch or a loop, which may not run
        self.walk: Any = None  # runs a nested graph: (module, arguments) -> values; set by the importer

    # Types.

    def dtype(self, x: Expr) -> str:
        return str(x.ty.dtype)

    def shape(self, x: Expr) -> list[Dim]:
        """The dims of x: ints where they are known, else TIR expressions."""
        return [as_dim(size) for size in x.ty.shape.values]

    def rank(self, x: Expr) -> int:
        return int(x.ty.ndim)

    def static_shape(self, x: Expr) -> list[int]:
        shape = self.shape(x)
        if not all(isinstance(size, int) for size in shape):
            raise NotConvertible("a dynamic size where a fixed one is needed")
        return shape

    def static_shape_of(self, x: Expr, axes: Iterable[int]) -> list[int]:
        """The sizes of some axes, which must be fixed."""
        sizes = [self.shape(x)[axis] for axis in axes]
        if not all(isinstance(size, int) for size in sizes):
            raise NotConvertible("a dynamic size where a fixed one is needed")
        return sizes

    def out_shape(self, index: int | None = None) -> list[Dim]:
        return self.symbols.dims(self._out(index).shape)

    def out_dtype(self, index: int | None = None) -> str:
        return tvm_dtype(self._out(index).dtype)

    def _out(self, index: int | None) -> Any:
        return self.result if index is None else self.result[index]

    def dim(self, size: Any) -> Dim:
        return self.symbols.dim(size)

    # Emitting.

    def emit(self, expr: Expr) -> Expr:
        """Bind the expression to a variable that has the node's name."""
        return self.bb.emit(expr, name_hint=self._name())

    def _name(self) -> str:
        return self.node.name if self.node is not None else ""

    def const(self, value: Any, dtype: str) -> Expr:
        """A number as a tensor of rank 0, or an array, as a constant."""
        if isinstance(value, (bool, int, float)):
            key = (repr(value), dtype)
            if key not in self.constants:
                self.constants[key] = relax.const(np.asarray(value).astype(_numpy_dtype(dtype)), dtype)
            return self.constants[key]
        return relax.const(np.array(value, dtype=_numpy_dtype(dtype), order="C"), dtype)

    def tensor_const(self, tensor: torch.Tensor) -> Expr:
        """A tensor's values; those of a large one stay where they are."""
        tvm_dtype(tensor.dtype)  # refuses what there is no type for
        return constant_of(to_numpy(tensor, copy=False))

    def sizes_tensor(self, sizes: Sequence[Dim]) -> Expr:
        """int64 [len(sizes)]: symbolic sizes as data."""
        if all(isinstance(size, int) for size in sizes):
            return self.const(np.array(sizes), "int64")
        return self.emit(relax.op.shape_to_tensor(relax.ShapeExpr([as_expr(size) for size in sizes])))

    def tensor(self, value: Any, dtype: str) -> Expr:
        """A tensor, a number or a size, as a tensor of the dtype."""
        if isinstance(value, (bool, int, float)):
            return self.const(value, dtype)
        if is_size(value):
            return self.cast(self.reshape(self.sizes_tensor([value]), []), dtype)
        return self.cast(value, dtype)

    def cast(self, x: Expr, dtype: str) -> Expr:
        """x in another dtype by torch's rules: to bool is "not zero", from floating point truncates."""
        if self.dtype(x) == dtype:
            return x
        if dtype == "bool":
            return self.emit(relax.op.not_equal(x, self.const(0, self.dtype(x))))
        return self.emit(relax.op.astype(x, dtype))

    def reshape(self, x: Expr, shape: Sequence[Dim]) -> Expr:
        """x with another shape of as many elements; one that changes nothing emits nothing."""
        if self.same_dims(self.shape(x), shape):
            return x
        value = self.constant_value(x)
        if value is not None and value.size <= 65536 and all(isinstance(size, int) for size in shape):
            return self.const(value.reshape(list(shape)), self.dtype(x))
        source = self.binding(x)
        if _is_call(source, "relax.reshape"):  # reshape of reshape
            x = source.args[0]
            if self.same_dims(self.shape(x), shape):
                return x
        return self.emit(relax.op.reshape(x, relax.ShapeExpr([as_expr(size) for size in shape])))

    def permute(self, x: Expr, axes: Sequence[int]) -> Expr:
        """x with its axes permuted; permutations of permutations are merged, and identities vanish."""
        axes = [axis % self.rank(x) if self.rank(x) else axis for axis in axes]
        source = self.binding(x)
        if _is_call(source, "relax.permute_dims") and source.attrs.axes is not None:
            inner = [int(axis) for axis in source.attrs.axes]
            axes, x = [inner[axis] for axis in axes], source.args[0]
        if axes == list(range(len(axes))):
            return x
        return self.emit(relax.op.permute_dims(x, list(axes)))

    def swap(self, x: Expr, a: int, b: int) -> Expr:
        axes = list(range(self.rank(x)))
        axes[a], axes[b] = axes[b], axes[a]
        return self.permute(x, axes)

    def broadcast(self, x: Expr, shape: Sequence[Dim]) -> Expr:
        have = self.shape(x)
        if self.same_dims(have, shape):
            return x
        for size, wanted in zip(reversed(have), reversed(shape)):
            self.not_taken_for_one(size, wanted)
            if not (isinstance(size, int) and size == 1):
                self.require_equal(size, wanted)
        return self.emit(relax.op.broadcast_to(x, relax.ShapeExpr([as_expr(size) for size in shape])))

    def slice(self, x: Expr, axis: int, begin: Dim, length: Dim, step: int = 1) -> Expr:
        """`length` elements of x along the axis, which are known to be there."""
        if self.same_dims([length], [self.shape(x)[axis]]) and step == 1:
            return x
        end = begin + (length - 1) * step + 1 if step != 1 else begin + length
        if isinstance(end, int) and end == 2:
            self.symbols.has_second(self.shape(x)[axis])
        if step == 1 or all(isinstance(each, int) for each in (begin, length, self.shape(x)[axis])):
            bounds = ([axis], [as_expr(begin)], [as_expr(end)], [as_expr(step)])
            return self.emit(relax.op.strided_slice(x, *bounds, assume_inbound=step == 1))
        shape = [length if a == axis else size for a, size in enumerate(self.shape(x))]

        def build(source: Any, sizes: Any, first: Any) -> Any:  # the length as it is known, not as Relax would infer it
            return te.compute(
                sizes, lambda *i: source(*i[:axis], first[0] + i[axis] * step, *i[axis + 1 :]), name="slice"
            )

        return self.emit_te(build, x, shape, [begin])

    def take(self, x: Expr, indices: Expr, axis: int) -> Expr:
        """x indexed along the axis by an integer tensor of any rank."""
        return self.emit(relax.op.take(x, indices, axis=axis))

    def take_within(self, x: Expr, indices: Expr, axis: int) -> Expr:
        """x indexed along the axis by an integer tensor of any rank, whose elements count from the start: a run refuses others. (Relax says
        of them that they give NaN; the gather kernel checks what it reads, so that no step of its own is needed.)"""
        if self.constant_value(indices) is None and self.dtype(x).startswith(("float", "bfloat")):
            return self.emit(relax.op.take(x, indices, axis=axis, mode="nan"))
        self.check_indices(indices, self.shape(x)[axis])
        return self.take(x, indices, axis)

    def zeros(self, shape: Sequence[Dim], dtype: str, value: Any = 0) -> Expr:
        if all(isinstance(size, int) for size in shape) and 0 < int(np.prod([*shape], dtype=np.int64)) <= 4096:
            return self.const(np.full([int(size) for size in shape], value, _numpy_dtype(dtype)), dtype)
        return self.emit(relax.op.full(relax.ShapeExpr([as_expr(s) for s in shape]), self.const(value, dtype), dtype))

    def generated(self, build: Callable[..., Any], *args: Any, name: str) -> list[Expr]:
        """The results of a generated function: `build` gets te tensors for the arguments (a list of extents for a list of sizes),
        and gives one or several; loops of its own are not fused with others."""
        given = [relax.ShapeExpr([as_expr(size) for size in a]) if isinstance(a, list) else a for a in args]
        found = self.bb.emit_te(build, *given, primfunc_name_hint=name, primfunc_attrs={"op_pattern": _OPAQUE})
        if not isinstance(found.ty, relax.TupleType):
            return [found]
        return [self.emit(relax.TupleGetItem(found, i)) for i in range(len(found.ty.fields))]

    def emit_te(self, build: Callable[..., Any], *args: Any) -> Expr:
        """A tensor expression that may be fused with its neighbours; a list of sizes arrives as a list of extents."""
        given = [relax.ShapeExpr([as_expr(size) for size in a]) if isinstance(a, list) else a for a in args]
        return self.bb.emit_te(build, *given)

    def bind_symbol(self, symbol: Any, x: Expr, name: str) -> Dim:
        """Give a symbol the value of an integer tensor with one element; returns what stands for the symbol."""
        tensor = self.bb.emit(relax.op.reshape(self.cast_plain(x, "int64"), [1]))
        if not self.symbols.may_be_negative(symbol):
            variables: tuple[Any, ...] = (self.symbols.new(symbol),)
        else:
            variables, zero = self.symbols.new_signed(symbol), self.const(0, "int64")
            above = self.bb.emit(relax.op.maximum(tensor, zero))
            below = self.bb.emit(relax.op.maximum(self.bb.emit(relax.op.negative(tensor)), zero))
            tensor = self.bb.emit(relax.op.concat([above, below], axis=0))
        says = RunCheck("number", f"the number that {self.at() or name} gives")
        shape = self.bb.emit(says.sizes(tensor), name_hint=name)
        self.bb.match_cast(shape, relax.ShapeType(list(variables)), name_hint=name)
        return self.symbols.convert(symbol)

    def counted_size(self, size: int | torch.SymInt, total: Expr) -> Dim:
        """What stands for a size that a run counts (`total`, one element). One that torch was told before, as by torch._check, is checked."""
        if not self.symbols.knows(size):
            return self.bind_symbol(size.node.expr, total, self._name())  # type: ignore[union-attr]
        self.require_number(total, self.dim(size))
        return self.dim(size)

    def require_number(self, x: Expr, wanted: Dim) -> None:
        """Every run refuses inputs for which x, an integer of one element, is another number than this one, which torch took for it."""
        same = relax.op.equal(self.reshape(self.cast_plain(x, "int64"), []), self.tensor(wanted, "int64"))
        self.require(self.emit(same), f"the number that {self.at()} gives must be {wanted}: give other inputs")

    def require(self, holds: Expr, says: str) -> None:
        """Every run refuses inputs for which `holds`, one truth, is false, with this sentence."""

        def build(truth: Any) -> Any:
            one, never = tirx.IntImm("int64", 1), tirx.IntImm("int64", -1)
            return te.compute((1,), lambda _: tirx.Select(truth(), one, never), name="check")

        (found,) = self.generated(build, self.reshape(self.cast(holds, "bool"), []), name="check")
        shape = self.bb.emit(RunCheck("refused", says).sizes(found), name_hint="check")
        self.bb.match_cast(shape, relax.ShapeType([tirx.Var(f"check_{self._name()}", "int64")]))

    def at(self) -> str:
        """The node that is converted now, as errors name it; "" before the first."""
        if self.node is None:
            return ""
        place = place_of(self.node)
        return operator_name(self.node) + (f" at {place}" if place else "")

    def not_taken_for_one(self, size: Dim | str, traced_size: Dim) -> None:
        """torch takes what is 1 in the example inputs for 1 where it is to be broadcast."""
        if isinstance(traced_size, int) and traced_size == 1 and not isinstance(size, int):
            raise NotConvertible(
                f"a size {readable(size)} that is 1 in the example inputs, which torch took for fixed: give larger ones"
            )

    def means(self, extent: Dim, size: int | torch.SymInt) -> Dim:
        """`extent`, which was asked for where torch has `size`: torch writes extents that were asked for as quotients of others, which
        differ where a run is refused. From here on its expression means the extent."""
        if isinstance(size, torch.SymInt) and not self.nested and not same_dim(extent, self.dim(size)):
            self.symbols.define_as(size.node.expr, extent)
        return extent

    def require_at_least(self, size: Dim, minimum: Dim) -> None:
        """Every run refuses sizes of its inputs for which size < least."""
        if isinstance(size, int) and isinstance(minimum, int):
            if size < minimum:
                raise NotConvertible(f"a size of {size} where {minimum} is the least")
        else:
            self.require_equal(size, tirx.max(as_expr(size), as_expr(minimum)))

    def require_equal(self, a: Dim, b: Dim, kind: str = "extent") -> None:
        """Every run refuses sizes of its inputs for which a != b; `kind`: what `ir.check` says of it. What only the data decides, or a branch
        needs, is not checked."""
        if self.nested or same_dim(a, b) or not self.symbols.from_inputs(a) or not self.symbols.from_inputs(b):
            return
        if isinstance(b, tirx.Var):
            a, b = b, a  # a lone variable as the pattern would be a definition
        sizes = ir.check(relax.ShapeExpr([as_expr(a)]), kind=kind, text=f"{self.at()}, {self._name()}")
        self.bb.match_cast(self.bb.emit(sizes), relax.ShapeType([as_expr(b)]), name_hint=f"{self._name()}_{kind}")

    def check_indices(self, x: Expr, extent: Dim, *, wraps: bool = False) -> None:
        """Every run refuses elements of x that are no positions in an axis of this extent; where it `wraps` they may be counted from the end."""
        known = self.constant_value(x)
        if known is not None and isinstance(extent, int):
            if known.size and not (-extent if wraps else 0) <= known.min() <= known.max() < extent:
                raise NotConvertible(f"an index out of range for {extent} elements")
            return

        def build(places: Any, extents: Any) -> Any:
            ks = [te.reduce_axis((0, d), name=f"k{a}") for a, d in enumerate(places.shape)]
            at, end = tirx.Cast("int64", places(*ks)), extents[0]
            legal = tirx.all(at >= (tirx.IntImm("int64", 0) - end if wraps else tirx.IntImm("int64", 0)), at < end)
            found = tirx.Select(legal, tirx.IntImm("int64", 1), tirx.IntImm("int64", -1))
            return te.compute((1,), lambda _: te.min(found, axis=ks) if ks else found, name="check")

        (found,) = self.generated(build, x, [extent], name="check_indices")
        name = f"indices_of_{self._name()}"
        says = RunCheck("indices", self._name())
        shape = self.bb.emit(says.sizes(found), name_hint=name)
        self.bb.match_cast(shape, relax.ShapeType([tirx.Var(name, "int64")]))

    def cast_plain(self, x: Expr, dtype: str) -> Expr:
        return x if self.dtype(x) == dtype else self.bb.emit(relax.op.astype(x, dtype))

    def where(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return self.emit(relax.op.where(condition, a, b))

    # Questions.

    def used(self, index: int) -> bool:
        """Whether anything reads this result of the node."""
        users = self.node.users if self.node is not None else ()
        return any(user.target is not operator.getitem or user.args[1] == index for user in users)

    def quotient(self, a: Dim, b: Dim) -> Dim:
        """a // b as simple as can be."""
        return as_dim(_ANALYZER.simplify(tirx.floordiv(as_expr(a), as_expr(b))))

    def same_dims(self, a: Sequence[Dim], b: Sequence[Dim]) -> bool:
        return len(a) == len(b) and all(same_dim(p, q) for p, q in zip(a, b))

    def promoted(self, names: Sequence[str], kind: Any = Promotion.DEFAULT) -> tuple[str, str]:
        """The dtypes in which torch computes and returns an elementwise operator of these arguments."""
        compute, result = elementwise_dtypes(*[_surrogate(self.fakes[n]) for n in names], type_promotion_kind=kind)
        return tvm_dtype(compute), tvm_dtype(result)

    def constant_value(self, x: Expr) -> np.ndarray[Any, Any] | None:
        """The numpy array of a constant; None for anything else."""
        return (
            x.value.numpy() if isinstance(x, tvm.ir.GenericConst) and isinstance(x.value, tvm.runtime.Tensor) else None
        )

    def binding(self, x: Expr) -> Any:
        """What a variable is bound to; None for parameters and constants."""
        return self.bb.lookup_binding(x) if isinstance(x, tvm.ir.Var) else None


def as_dim(size: Any) -> Dim:
    return int(size) if isinstance(size, (int, tirx.IntImm)) else size


def as_expr(size: Dim) -> Any:
    return tirx.IntImm("int64", size) if isinstance(size, int) else size


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two sizes are equal for every value of their symbols (False also where that cannot be shown)."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(_ANALYZER.can_prove_equal(as_expr(a), as_expr(b)))


def is_size(value: Any) -> bool:
    """Whether a value of the environment is a symbolic size: a TIR expression, no tensor."""
    return isinstance(value, tvm.ir.Expr) and isinstance(value.ty, tvm.ir.PrimType)


def _is_call(expr: Any, name: str) -> bool:
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == name


def _surrogate(value: Any) -> Any:
    if isinstance(value, torch.SymInt):
        return 1
    if isinstance(value, torch.SymFloat):
        return 1.0
    return True if isinstance(value, torch.SymBool) else value


def _numpy_dtype(dtype: str) -> Any:
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)

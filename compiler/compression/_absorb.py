"""Where a scale of an activation's channels can go, so that the model computes what it did: into constants before it and weights behind it.

A value times a positive number for each channel is had by other constants in what computes it, where that is linear or positively
homogeneous: the weights of a layer, through its bias, ReLU, pooling, moves, sums and attention's weights of its values; gamma and beta of a norm;
the constant of a product. Heads of attention that share a head of values share its scales. Nothing passes ReLU6, SiLU, GELU, or a value that others read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..ir import OperatorCall, read_operator
from ..passes._dims import shape_of
from ..passes._ops import constant, names, regroup
from ..passes._rewrite import Rewriter, array_of, is_call, rewrite

__all__ = ["Changes", "Graph", "Inserted", "rescaled"]

Array = npt.NDArray[np.float64]

# What a constant operand (a binding's variable and the operand's index) is multiplied by.
Changes = dict[tuple[relax.Var, int], Array]

# What the channels of a layer's activation are multiplied by in front of it, where nothing takes it in.
Inserted = dict[relax.Var, Array]

_SAME = names("nn.relu nn.leakyrelu abs negative")
_POOLS = names(
    "nn.max_pool1d nn.max_pool2d nn.max_pool3d nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d nn.adaptive_avg_pool2d"
)
_REDUCTIONS = names("mean sum max min")
_LAYERS = names("nn.conv1d nn.conv2d nn.conv3d matmul")
_VIEWS = names("reshape expand_dims squeeze")


class Graph:
    """Who computes and who reads each variable of the main function."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.definitions: dict[relax.Var, relax.Expr] = {}
        self.readers: dict[relax.Var, list[relax.Var | None]] = {}  # None: the result
        body = mod["main"].body
        for block in body.blocks:
            for binding in block.bindings:
                self.definitions[binding.var] = binding.value
                for var in _read(binding.value):
                    self.readers.setdefault(var, []).append(binding.var)
        for var in _read(body.body):
            self.readers.setdefault(var, []).append(None)

    def reads(self, var: relax.Var) -> list[relax.Var]:
        """What a variable is computed from, each as often as it is read."""
        return _read(self.definitions[var])

    def layers_reading(self, value: relax.Expr) -> list[relax.Var] | None:
        """The layers with constant weights that read it, if nobody else does."""
        found: list[relax.Var] = []
        for reader in self.readers.get(value, []):
            call = self.definitions.get(reader) if reader is not None else None
            if not is_call(call, *_LAYERS) or not call.args[0].same_as(value) or array_of(call.args[1]) is None:
                return None
            if not _is_plain(call):
                return None
            assert reader is not None
            found.append(reader)
        return found or None

    def absorbed(self, value: relax.Expr, factor: Array) -> Changes | None:
        """What makes `value * factor` of a value; `factor` has its rank. Its readers must all want that. None: no place can take it."""
        changes: Changes = {}
        return changes if self._into(value, factor, changes) else None

    def tied(self, value: relax.Expr, shape: Sequence[int]) -> npt.NDArray[np.int64]:
        """For each channel of a factor of this shape the first of those with which it must have one scale, mostly itself."""
        first = np.arange(int(np.prod(shape)))
        labels = first.reshape(shape).astype(np.float64)
        while is_call(call := self.definitions.get(value) if isinstance(value, relax.Var) else None):
            if (attention := _attention(call)) is not None:
                heads = _by_shared_head(attention, labels)
                if heads is not None:
                    first[heads.astype(np.int64)] = heads[:, :, :1].astype(np.int64)
                break
            before = _before(call, labels)
            if before is None:
                break
            value, labels = before
        return first

    def unabsorbed(self, layers: Sequence[relax.Var], channels: Array) -> Changes:
        """What makes layers compute the same of an activation whose channels have been multiplied by `channels`."""
        return {(var, 1): _inverse(self.definitions[var], channels) for var in layers}

    def producer(self, changes: Changes) -> relax.Var | None:
        """The one layer whose weights take the scale; None where a norm, a constant or several layers do."""
        found = [var for var, index in changes if is_call(self.definitions[var], *_LAYERS)]
        return found[0] if len(found) == 1 else None

    def ends_layer(self, value: relax.Expr) -> bool:
        """Whether a layer computes it, with operators of constants alone behind it (a bias, an activation), so that its kernel quantizes it:
        no multiplication may come in between."""
        while (call := self.definitions.get(value) if isinstance(value, relax.Var) else None) is not None:
            if is_call(call, *_LAYERS):
                return True
            read = set(_read(call))
            if is_call(call, "relax.nn.layer_norm", "relax.nn.rms_norm") or len(read) != 1:
                return False
            value = read.pop()
        return False

    def _into(self, value: relax.Expr, factor: Array, changes: Changes) -> bool:
        call = self.definitions.get(value) if isinstance(value, relax.Var) else None
        if not is_call(call):
            return False
        name = str(call.op.name)
        if name in _LAYERS:
            return _into_layer(value, call, factor, changes)
        if name in ("relax.nn.layer_norm", "relax.nn.rms_norm"):
            return _into_norm(value, call, factor, changes)
        if name in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
            return self._into_binary(value, call, factor, changes)
        before = _before(call, factor)
        if before is None:
            return False
        source, moved = before
        return self._only_reader(source) and self._into(source, moved, changes)

    def _into_binary(self, value: relax.Var, call: relax.Call, factor: Array, changes: Changes) -> bool:
        arrays = [array_of(arg) for arg in call.args]
        known = [i for i, array in enumerate(arrays) if array is not None]
        sizes = [0 if array is None else array.size for array in arrays]
        others = [arg for arg, array in zip(call.args, arrays) if array is None]
        of_products = is_call(call, "relax.multiply", "relax.divide")
        if of_products and known and sizes[known[0]] > 1:  # one number belongs to a formula, as GELU's half
            changes[value, known[0]] = factor if is_call(call, "relax.multiply") or known[0] == 0 else 1 / factor
            return True
        if is_call(call, "relax.divide"):
            wanted = [others[:1]] if array_of(call.args[0]) is None else []
        else:
            wanted = [[each] for each in others] if of_products else [others]  # of a product either takes it
        for sources in wanted:
            tried: Changes = {}
            if all(
                _has_extents(arg, factor) and self._only_reader(arg) and self._into(arg, factor, tried)
                for arg in sources
            ):
                changes.update(tried)
                if known and not of_products:
                    changes[value, known[0]] = factor
                return True
        return False

    def _only_reader(self, value: relax.Expr) -> bool:
        return len(self.readers.get(value, [])) == 1


def rescaled(mod: tvm.IRModule, changes: Changes, inserted: Inserted) -> tvm.IRModule:
    """The module with other constants, and with multiplications in front of the products `inserted`: one for all that share a factor."""
    of: dict[relax.Var, list[tuple[int, Array]]] = {}
    for (var, index), factor in changes.items():
        of.setdefault(var, []).append((index, factor))
    scaled: dict[int, relax.Expr] = {}

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in of:
            return None
        args = list(value.args)
        for index, factor in of[var]:
            array = array_of(args[index])
            assert array is not None
            args[index] = constant((array.astype(np.float64) * factor).astype(np.float32))
        channels = inserted.get(var)
        if channels is not None:
            if id(channels) not in scaled:
                scaled[id(channels)] = rw.emit(relax.op.multiply(args[0], constant(channels.astype(np.float32))))
            args[0] = scaled[id(channels)]
        return tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span)

    return rewrite(mod, rule) if of else mod


def _read(value: relax.Expr) -> list[relax.Var]:
    """The variables that a binding's value reads, each as often as it does."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Call):
        return [var for arg in value.args for var in _read(arg)]
    if isinstance(value, relax.Tuple):
        return [var for part in value.fields for var in _read(part)]
    if isinstance(value, relax.TupleGetItem):
        return _read(value.tuple_value)
    return list(relax.analysis.free_vars(value))


def _is_plain(layer: relax.Call) -> bool:
    """Whether it is a convolution of [N, C, ...] or a product with a matrix."""
    if is_call(layer, "relax.matmul"):
        return bool(layer.args[1].ty.ndim == 2 and layer.args[0].ty.ndim >= 2)
    return str(layer.attrs.data_layout).startswith("NC") and str(layer.attrs.kernel_layout).startswith("OI")


def _into_layer(value: relax.Var, call: relax.Call, factor: Array, changes: Changes) -> bool:
    product = is_call(call, "relax.matmul")
    vector = _along(factor, factor.ndim - 1 if product else 1)
    weight = array_of(call.args[1])
    if vector is None or weight is None or weight.dtype != np.float32 or not _is_plain(call):
        return False
    shape = [1, vector.size] if product else [vector.size] + [1] * (weight.ndim - 1)
    changes[value, 1] = vector.reshape(shape)
    return True


def _into_norm(value: relax.Var, call: relax.Call, factor: Array, changes: Changes) -> bool:
    vector, axes = _along(factor, factor.ndim - 1), [int(axis) % factor.ndim for axis in call.attrs.axes]
    rows = range(1, len(call.args))
    if vector is None or axes != [factor.ndim - 1] or any(array_of(call.args[i]) is None for i in rows):
        return False
    if is_call(call, "relax.nn.layer_norm") and not (call.attrs.scale and call.attrs.center):
        return False
    changes.update({(value, i): vector for i in rows})
    return True


def _before(call: relax.Call, factor: Array) -> tuple[relax.Expr, Array] | None:
    """The operand that takes the factor in the call's place, and the factor in that one's axes."""
    name, x = str(call.op.name), call.args[0]
    if name in _SAME:
        return x, factor
    if name in _POOLS:
        return (x, factor) if _along(factor, 1) is not None and str(call.attrs.layout).startswith("NC") else None
    if name in _REDUCTIONS:
        return _before_reduction(call, factor)
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        order = list(reversed(range(factor.ndim))) if axes is None else [int(axis) % factor.ndim for axis in axes]
        return x, factor.transpose(np.argsort(order))
    if name in _VIEWS:
        moved = _before_view(x, call, factor)
        return None if moved is None else (x, moved)
    if (attention := _attention(call)) is not None:
        return _before_attention(attention, factor)
    if name == "relax.nn.attention":  # linear in the values, [B, S, heads, depth]
        values = call.args[2]
        return (values, factor) if _has_extents(values, factor) and max(factor.shape[:2]) == 1 else None
    return None


def _attention(call: relax.Call) -> OperatorCall | None:
    """The call of attention with grouped queries."""
    found = read_operator(call)
    return found if found is not None and found.operator.name == "attention" else None


def _by_shared_head(attention: OperatorCall, factor: Array) -> Array | None:
    """A factor of its result as [1, heads of values, heads of queries that share one, depth]; None where it varies with something else."""
    values = attention.args[2]
    assert values is not None
    axis = 1 if attention.attrs.get("layout") == "bhsd" else 2
    heads = shape_of(values)
    if heads is None or factor.ndim != 4 or factor.shape[0] != 1 or factor.shape[3 - axis] != 1:
        return None
    shared = int(heads[axis])
    return factor.reshape(1, shared, -1, factor.shape[3]) if factor.shape[axis] % shared == 0 else None


def _before_attention(attention: OperatorCall, factor: Array) -> tuple[relax.Expr, Array] | None:
    """Linear in the values, of which heads that share one must want the same."""
    values = attention.args[2]
    assert values is not None
    if factor.shape == (1, 1, 1, factor.shape[-1]):
        return values, factor
    heads = _by_shared_head(attention, factor)
    if heads is None or (heads != heads[:, :, :1]).any():
        return None
    one = heads[:, :, 0]  # [1, heads of values, depth]
    return values, np.expand_dims(one, 2 if attention.attrs.get("layout") == "bhsd" else 1)


def _before_reduction(call: relax.Call, factor: Array) -> tuple[relax.Expr, Array] | None:
    ndim = call.args[0].ty.ndim
    if call.attrs.axis is None:
        return None
    axes = sorted(int(axis) % ndim for axis in call.attrs.axis)
    wide = factor if call.attrs.keepdims else np.expand_dims(factor, tuple(axes))
    return (call.args[0], wide) if all(wide.shape[axis] == 1 for axis in axes) else None


def _before_view(x: relax.Expr, call: relax.Call, factor: Array) -> Array | None:
    source, target = shape_of(x), shape_of(call)
    groups = regroup(source, target) if source is not None and target is not None else None
    if groups is None or source is None or target is None:
        return None
    full, back = [1] * len(target), [1] * len(source)
    for before, after in groups:
        if all(factor.shape[axis] == 1 for axis in after):
            continue
        dims = [source[axis] for axis in before], [target[axis] for axis in after]
        if not all(isinstance(d, int) for part in dims for d in part):
            return None
        for axis in after:
            full[axis] = int(target[axis])
        for axis in before:
            back[axis] = int(source[axis])
    return np.broadcast_to(factor, full).reshape(back)


def _along(factor: Array, axis: int) -> Array | None:
    """The factor as a vector of this axis; None where it varies along another."""
    if any(extent != 1 for i, extent in enumerate(factor.shape) if i != axis):
        return None
    return factor.reshape(-1)


def _has_extents(value: relax.Expr, factor: Array) -> bool:
    """Whether a value has as many elements as the factor along each axis where that varies."""
    shape = shape_of(value)
    return (
        shape is not None
        and len(shape) == factor.ndim
        and all(extent == 1 or extent == d for extent, d in zip(factor.shape, shape))
    )


def _inverse(layer: relax.Call, channels: Array) -> Array:
    """Of the weights of a layer that reads channels times `channels`."""
    if is_call(layer, "relax.matmul"):
        return 1 / channels[:, None]
    out, depth, *kernel = (int(d) for d in layer.args[1].ty.shape.values)
    groups = int(layer.attrs.groups)
    grouped = np.repeat(1 / channels.reshape(groups, 1, depth), out // groups, axis=1)
    return grouped.reshape(out, depth, *[1] * len(kernel))

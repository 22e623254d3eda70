"""Which channels of which layers belong together: a graph of dependencies, found on the IR.

Every position along an axis that channels lie on has a label. A layer with a constant weight gives its outputs new ones; whatever works
element by element makes the labels of its operands one (a residual sum, a bias), a concatenation lines them up (one branch twice: the
same label twice), a reshape that splits an axis makes those of each part one (attention heads), and what mixes channels in a way that is
not known here fixes them, with its name as the reason. What has one label can only go as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..passes._dims import Dim, shape_of
from ..passes._ops import names, regroup, slice_of
from ..passes._rewrite import array_of, is_call

__all__ = ["ELEMENTWISE", "Channels", "Labels", "channels_of", "reads_weight"]

Labels = list[npt.NDArray[np.int64] | None]  # by axis of a value: labels along it, or None where no channels lie on it

_CONVOLUTIONS = names("nn.conv1d nn.conv2d nn.conv3d")
ELEMENTWISE = names(
    "nn.relu nn.relu6 nn.leakyrelu nn.gelu nn.gelu_tanh nn.silu nn.softplus sigmoid tanh erf exp log sqrt rsqrt square abs negative clip sin cos "
    "add subtract multiply divide maximum minimum power astype"
)
_POOLS = names(
    "nn.max_pool1d nn.max_pool2d nn.max_pool3d nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d nn.adaptive_avg_pool2d"
)
_REDUCTIONS = names("mean sum max min")
_ATTENTION = names("nn.attention nn.attention_bias")


def reads_weight(value: relax.Expr) -> bool:
    """Whether it is a product or convolution with a constant weight, whose inputs and outputs channels lie on."""
    if not is_call(value, "relax.matmul", *_CONVOLUTIONS):
        return False
    weight = array_of(value.args[1])
    if weight is None or array_of(value.args[0]) is not None or weight.dtype != np.float32:
        return False
    if is_call(value, "relax.matmul"):
        return weight.ndim == 2 and value.args[0].ty.ndim >= 2
    return str(value.attrs.data_layout)[:2] == "NC" and str(value.attrs.kernel_layout)[:2] == "OI"


@dataclass
class Channels:
    """Labels of all values, their unions, and what fixes some of them."""

    labels: dict[relax.Var, Labels] = field(default_factory=dict)
    fixed: dict[int, str] = field(default_factory=dict)  # reasons, by a label's root
    made: list[npt.NDArray[np.int64]] = field(default_factory=list)  # by layers, each its outputs
    picked: dict[relax.Var, set[int]] = field(default_factory=dict)  # by value: axes of which single places are taken
    _parent: list[int] = field(default_factory=list)

    def new(self, count: int) -> npt.NDArray[np.int64]:
        start = len(self._parent)
        self._parent += range(start, start + count)
        self.made.append(np.arange(start, start + count))
        return self.made[-1]

    def fixed_ones(self, count: int) -> npt.NDArray[np.int64]:
        """Labels of what no layer makes."""
        made = self.new(count)
        self.made.pop()
        self.fix([made], "it is an input, or what stays")
        return made

    def root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self, labels: Iterable[int]) -> npt.NDArray[np.int64]:
        return np.array([self.root(int(label)) for label in labels], np.int64)

    def unite(self, a: Sequence[int] | npt.NDArray[np.int64], b: Sequence[int] | npt.NDArray[np.int64]) -> None:
        for x, y in zip(a, b, strict=True):
            x, y = self.root(int(x)), self.root(int(y))
            if x == y:
                continue
            low, high = min(x, y), max(x, y)
            self._parent[high] = low
            if high in self.fixed:
                self.fixed.setdefault(low, self.fixed.pop(high))

    def fix(self, labels: Labels, reason: str) -> None:
        for along in labels:
            if along is not None:
                for label in along:
                    self.fixed.setdefault(self.root(int(label)), reason)

    def of(self, expr: relax.Expr) -> Labels:
        found = self.labels.get(expr)
        return found if found is not None else [None] * max(getattr(expr.ty, "ndim", 0), 0)


def channels_of(mod: tvm.IRModule) -> Channels:
    """The graph of the main function's values."""
    func = mod["main"]
    found = Channels(picked=_picked(func))
    for block in func.body.blocks:
        for binding in block.bindings:
            var, value = binding.var, binding.value
            made = None if isinstance(binding, relax.MatchCast) else _transfer(found, var, value)
            if made is None:
                for read in relax.analysis.free_vars(value):
                    found.fix(found.of(read), _reason(value))
                made = [None] * max(getattr(var.ty, "ndim", 0), 0)
            found.labels[var] = made
    _unite_shared(found, func)
    for read in (
        relax.analysis.free_vars(func.body.body) if not isinstance(func.body.body, relax.Var) else [func.body.body]
    ):
        found.fix(found.of(read), "it is a result of the model")
    return found


def _reason(value: relax.Expr) -> str:
    if isinstance(value, relax.Tuple):
        return "it is a result of the model"
    name = str(value.op.name).removeprefix("relax.") if is_call(value) else "what reads them"
    return f"{name} mixes them, or is not known to keep them apart"


def _unite_shared(found: Channels, func: relax.Function) -> None:
    """Layers with one weight keep having one."""
    first: dict[tuple[str, int, bytes], relax.VarBinding] = {}
    for block in func.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not reads_weight(value):
                continue
            weight = array_of(value.args[1])
            assert weight is not None
            groups = 1 if is_call(value, "relax.matmul") else int(value.attrs.groups)
            other = first.setdefault((str(value.op.name), groups, sha256(weight.tobytes()).digest()), binding)
            if other is binding:
                continue
            pairs = ((binding.var, other.var), (value.args[0], other.value.args[0]))
            for (a, b), axis in zip(pairs, _axes(value)):
                x, y = found.of(a)[axis], found.of(b)[axis]
                if x is not None and y is not None:
                    found.unite(x, y)
                else:
                    found.fix([x, y], "another layer has the same weight, and inputs that stay")


def _axes(value: relax.Call) -> tuple[int, int]:
    """Of a layer: the axis of its result's channels and of its input's."""
    return (-1, -1) if is_call(value, "relax.matmul") else (1, 1)


def _transfer(found: Channels, var: relax.Var, value: relax.Expr) -> Labels | None:
    """The labels of a binding's result; None where its operator is not known here."""
    if isinstance(value, relax.Var):
        return found.of(value)
    if not is_call(value):
        return None
    name, shape = str(value.op.name), shape_of(var)
    if shape is None:
        return None
    if reads_weight(value):
        return _layer(found, value, shape)
    if name == "relax.matmul":
        return _product(found, value, shape)
    if name in ELEMENTWISE:
        return _elementwise(found, var, value, shape)
    x = found.of(value.args[0]) if isinstance(value.args[0], relax.Var) else []
    if name in _POOLS and str(value.attrs.layout)[:2] == "NC":
        found.fix([x[0], *x[2:]], "a pooling runs over them")
        return [None, x[1], *[None] * (len(shape) - 2)]
    if name in _REDUCTIONS:
        return _reduction(found, value, x)
    if name == "relax.nn.softmax":
        axis = int(value.attrs.axis) % len(shape)
        found.fix([x[axis]], "a softmax runs over them")
        return [None if i == axis else each for i, each in enumerate(x)]
    if name in _ATTENTION:
        return _attention(found, value)
    if name == "relax.permute_dims":
        axes = value.attrs.axes
        return [x[i] for i in (reversed(range(len(x))) if axes is None else [int(a) % len(x) for a in axes])]
    if name == "relax.reshape":
        return _reshape(found, var, value, x, shape)
    if name == "relax.concat":
        return _concat(found, value, shape)
    if name == "relax.strided_slice":
        return _slice(found, value, x)
    return None


def _layer(found: Channels, value: relax.Call, shape: list[Dim]) -> Labels:
    weight = array_of(value.args[1])
    assert weight is not None
    read = found.of(value.args[0])
    if is_call(value, "relax.matmul"):
        return [*read[:-1], found.new(weight.shape[1])]
    found.fix([read[0], *read[2:]], "a convolution runs over them")
    made: Labels = [None] * len(shape)
    made[1] = outputs = found.new(weight.shape[0])
    groups = int(value.attrs.groups)
    if groups > 1:
        x = read[1]
        for group, some in enumerate(np.split(outputs, groups)):
            found.unite(some[1:], [some[0]] * (len(some) - 1))
            if x is not None:
                own = x[group * weight.shape[1] : (group + 1) * weight.shape[1]]
                found.unite(own, [some[0]] * len(own))
        if x is None:
            found.fix(made, "a grouped convolution reads an input that stays")
    return made


def _attention(found: Channels, value: relax.Call) -> Labels:
    """Of queries, keys and values [batch, places, heads, size] heads are apart from each other."""
    operands = [found.of(arg) for arg in value.args[:3]]
    heads = [_extent(arg, -2) for arg in value.args[:3]]
    for labels in operands:
        found.fix([labels[0], labels[1], labels[3]], "attention runs over them")
    along = _meet(found, [labels[2] for labels in operands], heads)
    if len(set(map(str, heads))) > 1 or any(_extent(arg, -3) != 1 for arg in value.args[3:]):
        found.fix([along], "heads of attention share keys, or have masks of their own")
    return [None, None, along, None]


def _product(found: Channels, value: relax.Call, shape: list[Dim]) -> Labels:
    """Of two values: the axis that is summed stays, the others' labels go on."""
    a, b = (found.of(arg) for arg in value.args)
    if len(a) < 2 or len(b) < 2:
        found.fix(a, "a product with a vector sums over them")
        found.fix(b, "a product with a vector sums over them")
        return [None] * len(shape)
    found.fix([a[-1], b[-2]], "a product of two values sums over them")
    made: Labels = [None] * len(shape)
    made[-2], made[-1] = a[-2], b[-1]
    for axis in range(3, len(shape) + 1):
        made[-axis] = _meet(
            found, [x[-axis] if len(x) >= axis else None for x in (a, b)], [_extent(v, -axis) for v in value.args]
        )
    return made


def _elementwise(found: Channels, var: relax.Var, value: relax.Call, shape: list[Dim]) -> Labels:
    operands = [arg for arg in value.args if isinstance(arg.ty, relax.TensorType)]
    made: Labels = []
    for axis in range(-len(shape), 0):
        known = [arg for arg in operands if arg.ty.ndim >= -axis]
        made.append(_meet(found, [found.of(arg)[axis] for arg in known], [_extent(arg, axis) for arg in known], [array_of(arg) is not None for arg in known]))  # fmt: skip
    return made


def _extent(expr: relax.Expr, axis: int) -> Dim:
    shape = shape_of(expr)
    return shape[axis] if shape is not None and len(shape) >= -axis else 1


def _meet(
    found: Channels, labels: Labels, extents: Sequence[Dim], constant: Sequence[bool] | None = None
) -> npt.NDArray[np.int64] | None:
    """One axis of operands that are combined element by element. Constants follow; of values, all of an axis' extent have labels or none."""
    largest = next((e for e in extents if not (isinstance(e, int) and e == 1)), 1)
    result: npt.NDArray[np.int64] | None = None
    stays = False
    for i, (along, extent) in enumerate(zip(labels, extents)):
        if constant is not None and constant[i]:
            continue
        if along is None:
            stays |= not (isinstance(extent, int) and extent == 1)
        elif len(along) == 1 and not (isinstance(largest, int) and largest == 1):
            found.fix([along], "it is the only channel, spread over others")
        elif result is None:
            result = along
        else:
            found.unite(result, along)
    if stays and result is not None:
        found.fix([result], "they are combined with what stays")
    return result


def _reduction(found: Channels, value: relax.Call, x: Labels) -> Labels:
    axes = range(len(x)) if value.attrs.axis is None else [int(axis) % len(x) for axis in value.attrs.axis]
    for axis in axes:
        found.fix([x[axis]], "they are summed up, or compared")
    kept = [None if i in axes else along for i, along in enumerate(x)]
    return kept if bool(value.attrs.keepdims) else [along for i, along in enumerate(kept) if i not in axes]


def _reshape(found: Channels, var: relax.Var, value: relax.Call, x: Labels, shape: list[Dim]) -> Labels | None:
    source = shape_of(value.args[0])
    groups = regroup(source, shape) if source is not None else None
    if source is None or groups is None:
        return None
    made: Labels = [None] * len(shape)
    for first, second in groups:
        labelled = [axis for axis in first if x[axis] is not None]
        if not labelled:
            continue
        sizes, targets = [source[i] for i in first], [shape[j] for j in second]
        static = all(isinstance(size, int) for size in (*sizes, *targets))
        if len(labelled) > 1 or not second or (not static and (len(first) > 1 or len(second) > 1)):
            found.fix(x, "a reshape joins them with others")
            continue
        along = x[labelled[0]]
        assert along is not None
        if not static:
            made[second[0]] = along
            continue
        spread = along.reshape([-1 if axis == labelled[0] else 1 for axis in first])
        items = np.broadcast_to(spread, sizes).reshape(targets)
        where = _axis_of(found, items, {second.index(axis) for axis in found.picked.get(var, ()) if axis in second})
        rows = np.moveaxis(items, where, 0).reshape(targets[where], -1)
        for row in rows:
            found.unite(row[1:], [row[0]] * (len(row) - 1))
        made[second[where]] = rows[:, 0]
    return made


def _axis_of(found: Channels, items: npt.NDArray[np.int64], picked: Collection[int]) -> int:
    """The axis of a reshape's result that labels are to lie on: one along which each place has a single label, else the first that is not
    there to pick its places (queries, keys and values from one product) and has more than one."""
    roots = found.roots(items.reshape(-1)).reshape(items.shape)
    for axis in range(items.ndim):
        rows = np.moveaxis(roots, axis, 0).reshape(items.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis
    free = [axis for axis in range(items.ndim) if items.shape[axis] > 1 and axis not in picked]
    return free[0] if free else 0


def _picked(func: relax.Function) -> dict[relax.Var, set[int]]:
    """By value: axes of which what reads it, perhaps behind a transpose, takes single places."""
    found: dict[relax.Var, set[int]] = {}
    for block in reversed(list(func.body.blocks)):
        for binding in reversed(list(block.bindings)):
            value = binding.value
            if is_call(value, "relax.strided_slice"):
                single = {
                    axis
                    for axis, begin, end, _ in slice_of(value)
                    if begin is not None and end is not None and end - begin == 1
                }
                found.setdefault(value.args[0], set()).update(single)
            elif is_call(value, "relax.permute_dims") and binding.var in found:
                ndim, axes = value.args[0].ty.ndim, value.attrs.axes
                order = list(reversed(range(ndim))) if axes is None else [int(axis) % ndim for axis in axes]
                found.setdefault(value.args[0], set()).update(order[axis] for axis in found[binding.var])
    return found


def _concat(found: Channels, value: relax.Call, shape: list[Dim]) -> Labels | None:
    parts = value.args[0]
    if not isinstance(parts, relax.Tuple):
        return None
    axis, labels = int(value.attrs.axis) % len(shape), [found.of(part) for part in parts.fields]
    made: Labels = []
    for i in range(len(shape)):
        if i != axis:
            made.append(
                _meet(found, [each[i] for each in labels], [_extent(part, i - len(shape)) for part in parts.fields])
            )
            continue
        made.append(
            _joined(found, [each[axis] for each in labels], [_extent(part, axis - len(shape)) for part in parts.fields])
        )
    return made


def _joined(found: Channels, labels: Labels, extents: Sequence[Dim]) -> npt.NDArray[np.int64] | None:
    """Labels one behind the other; parts without any get fixed ones."""
    if all(along is None for along in labels):
        return None
    if any(along is None and not isinstance(extent, int) for along, extent in zip(labels, extents)):
        found.fix(labels, "they are concatenated with what a run's size decides")
        return None
    pieces = [found.fixed_ones(extent) if along is None else along for along, extent in zip(labels, extents)]
    return np.concatenate(pieces)


def _slice(found: Channels, value: relax.Call, x: Labels) -> Labels | None:
    made = list(x)
    for axis, begin, end, stride in slice_of(value):
        along = x[axis]
        if along is None:
            continue
        if begin is None or end is None or stride != 1:
            return None
        made[axis] = along[begin:end]
    return made

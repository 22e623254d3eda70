"""The ONNX model itself as the oracle of verification: ONNX Runtime where it is installed and takes the model, else the reference.

Both run in a process of their own (compiler/oracle).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from ...oracle import Oracle, OracleError, start_worker
from .._imported import SHARED_NOISE, Array, ImportedModel, IsolatedOperators
from ._apart import isolate_operators, results_of
from ._between import GIVEN, cut_at, operators_behind
from ._by_definition import by_definition
from ._data import Data
from ._drawing import Draw
from ._sharing import CannotShareError, Tables, with_shared_noise
from ._values import DTYPES, is_float, numpy_dtype

__all__ = ["OnnxSource"]


_SCALES = {
    "QuantizeLinear": (1,), "DequantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6), "QGemm": (1, 4, 7),
    "QLinearAdd": (1, 4, 6), "QLinearMul": (1, 4, 6), "QLinearWhere": (2, 5, 7), "QAttention": (3, 4),
    **dict.fromkeys(["QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool"], (1, 3)),
}  # fmt: skip

# What finds the scale of its first input itself, at each run.
_OWN_SCALES = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"})


class OnnxSource:
    """Runs the model with another implementation (`Source` of importers/_imported.py)."""

    def __init__(
        self,
        model: onnx.ModelProto,
        data: Data,
        inputs: list[str],
        ranges: dict[str, tuple[float, float]],
        import_cut: Callable[[onnx.ModelProto], ImportedModel],
        implementations: tuple[str, ...] | None = None,
        draws: Mapping[int, Draw] | None = None,
        misread: str = "",
    ) -> None:
        """`draws`: what each node that draws random numbers draws, by its number (_sharing.numbered). `misread`: why the implementations take the
        file for another one than it is."""
        self._model = by_definition(_unrounded(_without_maps(model)), data)
        self._data = data
        self._inputs = inputs
        self._ranges = ranges
        self._import_cut = import_cut
        self._implementations = implementations if implementations is not None else _installed()
        self._draws = dict(draws or {})
        self._misread = misread
        self._tables: Tables | None = None
        self._oracle: Oracle | None = None
        start_worker()

    @property
    def reference(self) -> str:
        """Which implementation it is, with its version once it is open."""
        return (self._oracle.version if self._oracle is not None else "") or self._implementations[0]

    def open(self) -> None:
        if self._misread:
            raise OracleError(self._misread, opening=True)
        self._open_oracle().open()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        oracle, given = self._open_oracle(), {name: self._input_value(name, inputs) for name in self._inputs}
        while self._tables is not None:
            try:
                return self._as_declared(oracle.run({**given, **self._tables.inputs()}))
            except OracleError as error:
                if error.opening or not self._tables.grow(str(error)):
                    raise
        return self._as_declared(oracle.run(given))

    def _as_declared(self, results: dict[str, Array]) -> dict[str, Array]:
        """ONNX's reference leaves floats in the wider type that numpy computed them in, here and there."""
        for info in self._model.graph.output:
            dtype = DTYPES.get(info.type.tensor_type.elem_type, "") if info.type.HasField("tensor_type") else ""
            result = results.get(info.name)
            if result is not None and is_float(dtype) and result.dtype.kind == "f":
                if result.dtype.itemsize > numpy_dtype(dtype).itemsize:
                    results[info.name] = result.astype(numpy_dtype(dtype))
        return results

    @property
    def noise(self) -> str:
        return SHARED_NOISE if self._draws else ""

    def another(self) -> OnnxSource | None:
        rest = self._implementations[1:]
        return self._like(self._model, rest) if rest and not self._misread else None

    def _like(self, model: onnx.ModelProto, implementations: tuple[str, ...]) -> OnnxSource:
        return OnnxSource(model, self._data, self._inputs, self._ranges, self._import_cut, implementations, self._draws)

    def _open_oracle(self) -> Oracle:
        if self._oracle is None:
            model = self._model
            if self._draws:
                try:
                    model, self._tables = with_shared_noise(model, self._draws)
                except CannotShareError as why:
                    text = f"{self._implementations[0]} cannot be given the same random numbers: {why}"
                    raise OracleError(text, opening=True) from None
            outputs = [o.name for o in model.graph.output]
            string = onnx.TensorProto.STRING
            texts = [i.name for i in model.graph.input if i.type.tensor_type.elem_type == string]
            weights = list(self._data.listed(model.graph))
            self._oracle = Oracle(
                self._implementations[0], model.SerializeToString(), outputs, texts, weights, self._data.files
            )
        return self._oracle

    def with_moved_scales(self, share: float, trial: int = 0) -> OnnxSource | None:
        """The model with each scale of a quantization moved by this share of it, one way or the other, and with each number of what is
        quantized by a scale of its own making moved by up to this share; None if it has neither."""
        nodes = self._model.graph.node
        places = {node.input[i] for node in nodes for i in _SCALES.get(node.op_type, ()) if i < len(node.input)}
        if not places and not any(node.op_type in _OWN_SCALES for node in nodes):
            return None
        other = onnx.ModelProto()
        other.CopyFrom(self._model)
        rng = np.random.default_rng(trial)
        for tensor in other.graph.initializer:
            if tensor.name in places and tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in self._data:
                value = onnx.numpy_helper.to_array(tensor)
                step = rng.choice([-share, share], value.shape)
                tensor.CopyFrom(onnx.numpy_helper.from_array((value * (1 + step)).astype(np.float32), tensor.name))
        _move_quantized(other.graph, share, trial)
        return self._like(other, self._implementations)

    def interrupt(self) -> None:
        if self._oracle is not None:
            self._oracle.interrupt()

    def _input_value(self, name: str, inputs: Mapping[str, Array]) -> Any:
        """An input, a sequence's elements "name.0", "name.1", ... as a list, or None for an optional without a value."""
        if name in inputs:
            return inputs[name]
        info = next(i for i in self._model.graph.input if i.name == name)
        elements = [inputs[f"{name}.{k}"] for k in range(len(inputs)) if f"{name}.{k}" in inputs]
        return elements if elements or info.type.HasField("sequence_type") else None

    def input_ranges(self) -> dict[str, tuple[float, float]]:
        return dict(self._ranges)

    def operators(self) -> int:
        return len(self._model.graph.node)

    def parts(self) -> int:
        return len(self._model.graph.node) + len(self._model.graph.initializer)

    def prefix(self, count: int) -> tuple[ImportedModel, str]:
        if not 1 <= count <= self.operators():
            raise ValueError(f"a prefix of {count} operators: the model has {self.operators()}")
        last = self._model.graph.node[count - 1]
        cut = self._first_operators(count, [name for name in last.output if name])
        return self._import_cut(cut), f"{last.name or last.output[0]} ({last.op_type})"

    def isolated(self, count: int, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        constant = {t.name for t in self._model.graph.initializer}
        constant |= {s.values.name for s in self._model.graph.sparse_initializer}
        names = results_of(self._model.graph.node[:count], constant)
        if not names:
            return None
        whole = self._like(self._first_operators(count, names), self._implementations)
        model, cut_inputs, expected, operators = isolate_operators(self._model, count, {**inputs, **whole.run(inputs)})
        return IsolatedOperators(self._import_cut(model), cut_inputs, expected, operators) if expected else None

    def between(self, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        graph = self._model.graph
        constant = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
        results = set(results_of(graph.node, constant))
        quantizes = (_SCALES.keys() | _OWN_SCALES) - {"DequantizeLinear"}
        names = [name for n in graph.node if n.op_type in quantizes for name in n.output if name in results]
        if not names or set(inputs) != set(self._inputs):
            return None
        values = self._like(self._first_operators(len(graph.node), names), self._implementations).run(inputs)
        values = {name: values[name] for name in names}
        model = self._import_cut(cut_at(self._model, values, inputs))
        given = {**inputs, **{name + GIVEN: value for name, value in values.items()}}
        operators = {n: ", ".join(operators_behind(graph.node, n, names)) for n in model.output_names}
        return IsolatedOperators(model, given, model.source.run(given), operators)

    def _first_operators(self, count: int, outputs: list[str]) -> onnx.ModelProto:
        """The model's first operators, with these of their results as outputs."""
        cut = onnx.ModelProto()
        cut.CopyFrom(self._model)
        del cut.graph.node[count:]
        del cut.graph.output[:]
        cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        inferred = onnx.shape_inference.infer_shapes(cut)
        known = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
        del cut.graph.output[:]
        cut.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
        return cut


def _installed() -> tuple[str, ...]:
    """The implementations, in the order in which they are asked."""
    return ("onnxruntime", "onnx.reference") if importlib.util.find_spec("onnxruntime") else ("onnx.reference",)


def _unrounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without leave to round a product's activations to 8 bits, of which the importer makes no use."""

    def lenient(node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMulNBits" and any(a.name == "accuracy_level" and a.i > 1 for a in node.attribute)

    if not any(map(lenient, model.graph.node)):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in filter(lenient, out.graph.node):
        kept = [a for a in node.attribute if a.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return out


def _move_quantized(graph: onnx.GraphProto, share: float, trial: int) -> None:
    """Each input of _OWN_SCALES times numbers near 1, drawn where it runs."""
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        if node.op_type in _OWN_SCALES:
            noise, moved = f"{node.input[0]}/noise{number}", f"{node.input[0]}/moved{number}"
            about = {"low": 1.0 - share, "high": 1.0 + share, "seed": float(1 + 1000 * trial + number)}
            nodes.append(onnx.helper.make_node("RandomUniformLike", [node.input[0]], [noise], **about))
            nodes.append(onnx.helper.make_node("Mul", [node.input[0], noise], [moved]))
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[0] = moved
            nodes.append(changed)
        else:
            nodes.append(node)
    if len(nodes) > len(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(nodes)


def _without_maps(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, where ZipMap makes maps of a matrix, with the matrix as the result, which is what the importer gives."""
    zips = {n.output[0] for n in model.graph.node if n.op_type == "ZipMap" and n.domain == "ai.onnx.ml" and n.output}
    if not zips:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in out.graph.node:
        if node.output and node.output[0] in zips:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    for info in out.graph.output:
        if info.name in zips:
            info.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    if not any(o.domain in ("", "ai.onnx") for o in out.opset_import):
        out.opset_import.append(onnx.helper.make_opsetid("", 13))
    return out

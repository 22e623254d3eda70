"""The ONNX model itself as the oracle of verification: ONNX Runtime where it is installed and takes the model, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx

from maas_rt._strings import decode_strings, encode_strings

from .._imported import Array, ImportedModel

__all__ = ["OnnxSource"]


_SCALES = {"QuantizeLinear": (1,), "DequantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6)}
_INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
# What ONNX Runtime takes from and gives to numpy.
_EXCHANGED = frozenset(
    f"tensor({name})"
    for name in "float double float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string".split()
)


class OnnxSource:
    """Runs the model with another implementation (`Source` of importers/_imported.py)."""

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: list[str],
        ranges: dict[str, tuple[float, float]],
        again: Callable[[onnx.ModelProto], ImportedModel],
    ) -> None:
        self._model = _without_maps(model)
        self._inputs = inputs
        self._outputs = [o.name for o in model.graph.output]
        self._texts = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.STRING}
        self._ranges = ranges
        self._again = again
        self._session: Callable[[dict[str, Any]], list[Any]] | None = None
        self._options: Any = None  # of ONNX Runtime's run that is under way
        self.reference = ""  # which implementation ran, after the first run

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            self._session = self._open()
        results = self._session({name: self._given(name, inputs) for name in self._inputs})
        out: dict[str, Array] = {}
        for name, result in zip(self._outputs, results, strict=True):
            parts = {f"{name}.{k}": r for k, r in enumerate(result)} if isinstance(result, list) else {name: result}
            out.update({name: _encoded(part) for name, part in parts.items()})
        return out

    def moved(self, share: float) -> OnnxSource | None:
        """The model with each scale of a quantization moved by this share of it, one way or the other; None if it has none."""
        places = {
            node.input[i]
            for node in self._model.graph.node
            for i in _SCALES.get(node.op_type, ())
            if i < len(node.input)
        }
        if not places:
            return None
        other = onnx.ModelProto()
        other.CopyFrom(self._model)
        rng = np.random.default_rng(0)
        for tensor in other.graph.initializer:
            if tensor.name in places and tensor.data_type == onnx.TensorProto.FLOAT:
                value = onnx.numpy_helper.to_array(tensor)
                step = rng.choice([-share, share], value.shape)
                tensor.CopyFrom(onnx.numpy_helper.from_array((value * (1 + step)).astype(np.float32), tensor.name))
        return OnnxSource(other, self._inputs, self._ranges, self._again)

    def interrupt(self) -> None:
        options = self._options
        if options is not None:
            options.terminate = True

    def _given(self, name: str, inputs: Mapping[str, Array]) -> Any:
        """An input, a sequence's elements "name.0", "name.1", ... as a list, or None for an optional without a value."""
        if name in inputs:
            return decode_strings(inputs[name]) if name in self._texts else inputs[name]
        info = next(i for i in self._model.graph.input if i.name == name)
        elements = [inputs[f"{name}.{k}"] for k in range(len(inputs)) if f"{name}.{k}" in inputs]
        return elements if elements or info.type.HasField("sequence_type") else None

    def _open(self) -> Callable[[dict[str, Any]], list[Any]]:
        raw = self._model.SerializeToString() if self._model.ByteSize() < (1 << 31) - 1024 else None
        if raw is not None:
            try:
                import onnxruntime
            except ImportError:
                pass
            else:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4
                levels = onnxruntime.GraphOptimizationLevel
                # The file as it is written: weights that a model standardizes itself, folded by ONNX Runtime, give results that
                # differ by 4e-4 of their scale (BiT).
                options.graph_optimization_level = levels.ORT_DISABLE_ALL
                if any(node.op_type in _INTEGER_PRODUCTS for node in self._model.graph.node):
                    # Without this, sums of two products of uint8 and int8 saturate in 16 bits on CPUs without VNNI.
                    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
                    options.add_session_config_entry("session.x64quantprecision", "1")
                options.intra_op_num_threads = 1
                try:
                    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
                    if all(v.type in _EXCHANGED for v in (*session.get_inputs(), *session.get_outputs())):
                        self.reference = f"onnxruntime {onnxruntime.__version__}"
                        return partial(self._run_session, session, onnxruntime.RunOptions)
                except Exception:  # it has no kernel for an operator or type: the reference is slower and takes more
                    pass
        from onnx.reference import ReferenceEvaluator

        self.reference = f"onnx.reference {onnx.__version__}"
        return partial(ReferenceEvaluator(self._model).run, self._outputs)

    def _run_session(self, session: Any, options: Callable[[], Any], inputs: dict[str, Any]) -> list[Any]:
        self._options = options()
        try:
            results: list[Any] = session.run(self._outputs, inputs, self._options)
            return results
        finally:
            self._options = None

    def input_ranges(self) -> dict[str, tuple[float, float]]:
        return dict(self._ranges)

    def operators(self) -> int:
        return len(self._model.graph.node)

    def prefix(self, count: int) -> tuple[ImportedModel, str]:
        if not 1 <= count <= self.operators():
            raise ValueError(f"a prefix of {count} operators: the model has {self.operators()}")
        cut = onnx.ModelProto()
        cut.CopyFrom(self._model)
        del cut.graph.node[count:]
        last = cut.graph.node[-1]
        del cut.graph.output[:]
        cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in last.output if name)
        inferred = onnx.shape_inference.infer_shapes(cut)
        known = {info.name: info for info in inferred.graph.value_info}
        known.update({info.name: info for info in inferred.graph.output})
        del cut.graph.output[:]
        cut.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in last.output if name)
        return self._again(cut), f"{last.name or last.output[0]} ({last.op_type})"


def _encoded(result: Any) -> Any:
    """A result; strings as the compiled model gives them."""
    return encode_strings(result) if isinstance(result, np.ndarray) and result.dtype.kind in "OUS" else result


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

"""An ONNX model opened by one of its implementations: ONNX Runtime, or ONNX's own reference."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx

from maas_rt._strings import decode_strings, encode_strings

from ._products import products_are_exact
from ._wire import Array

__all__ = ["Session", "open_session"]

# What ONNX Runtime takes from and gives to numpy.
_EXCHANGED = frozenset(
    f"tensor({name})"
    for name in "float double float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string".split()
)
_PROVIDER = "CPUExecutionProvider"


class Session(Protocol):
    """A model that is open. `version` names the implementation with its version."""

    version: str

    def run(self, given: Sequence[tuple[str, str, int]], arrays: Sequence[Array]) -> tuple[list[str], list[Array]]:
        """The results and their names; `given` are the inputs' names, what each is (array, list, none) and of how many of `arrays`."""


def open_session(request: Mapping[str, Any], arrays: Sequence[Array], files: Sequence[int]) -> Session:
    """Raises whatever the implementation does where it does not take the model."""
    model = onnx.ModelProto()
    model.ParseFromString(arrays[0].tobytes())
    weights = _weights(request["weights"], files)
    kind = _Runtime if request["implementation"] == "onnxruntime" else _Reference
    return kind(model, weights, request["outputs"], frozenset(request["texts"]))


def _weights(listed: Iterable[Sequence[Any]], files: Sequence[int]) -> dict[str, Array]:
    """The initializers whose data did not come with the model: views of mapped files, copies where they are not aligned there."""
    maps: dict[int, mmap.mmap] = {}
    out: dict[str, Array] = {}
    for name, data_type, dims, file, offset, size in listed:
        kind = onnx.helper.tensor_dtype_to_np_dtype(data_type)
        if offset % kind.itemsize:
            array = np.empty(size // kind.itemsize, kind)
            if os.preadv(files[file], [array.view(np.uint8).data], offset) != size:
                raise ValueError("a file of the model was cut off")
        else:
            if file not in maps:
                maps[file] = mmap.mmap(files[file], os.fstat(files[file]).st_size, access=mmap.ACCESS_COPY)
            array = np.frombuffer(maps[file], np.uint8, size, offset).view(kind)
        out[name] = array.reshape(dims)
    return out


class _Runtime:
    """ONNX Runtime, on one thread, with the graph as it is written."""

    def __init__(
        self, model: onnx.ModelProto, weights: Mapping[str, Array], outputs: list[str], texts: frozenset[str]
    ) -> None:
        import onnxruntime

        self.version = f"onnxruntime {onnxruntime.__version__}"
        self._outputs, self._texts = outputs, texts
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        levels = onnxruntime.GraphOptimizationLevel
        # The file as it is written: weights that a model standardizes itself, folded by ONNX Runtime, give results that differ by 4e-4
        # of their scale (BiT).
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
        exact = products_are_exact(model)
        if exact is not None:
            if not exact:
                raise ValueError("on this CPU its sums of products of 8-bit integers saturate in 16 bits")
            # Without this, sums of two products of uint8 and int8 saturate in 16 bits on CPUs without VNNI.
            options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
            options.add_session_config_entry("session.x64quantprecision", "1")
        if weights:
            options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
            self._kept_alive = (weights, values)  # it does not copy them
        raised = onnxruntime.capi.onnxruntime_pybind11_state
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[_PROVIDER])
        except (raised.NotImplemented, raised.Fail) as error:
            # Making weights uint8 fails on some files (that it wrote itself), and leaves int8 activations, whose products with int8 do
            # not saturate, without a kernel.
            lacks = isinstance(error, raised.NotImplemented)
            if exact is None or not (lacks or products_are_exact(model, precise=False)):
                raise
            options.add_session_config_entry("session.x64quantprecision", "0")
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[_PROVIDER])
        for value in (*self._session.get_inputs(), *self._session.get_outputs()):
            if value.type not in _EXCHANGED:
                raise TypeError(f"numpy cannot exchange {value.type} with it")

    def run(self, given: Sequence[tuple[str, str, int]], arrays: Sequence[Array]) -> tuple[list[str], list[Array]]:
        return _with_names(self._outputs, self._session.run(self._outputs, dict(_inputs(given, arrays, self._texts))))


class _Reference:
    """ONNX's own implementation in numpy: slower, and takes more."""

    def __init__(
        self, model: onnx.ModelProto, weights: Mapping[str, Array], outputs: list[str], texts: frozenset[str]
    ) -> None:
        from ._corrected import Corrected

        self.version = f"onnx.reference {onnx.__version__}"
        self._outputs, self._texts, self._weights = outputs, texts, weights
        if weights:  # inputs of the same names: an evaluator would copy what it keeps
            kept = [tensor for tensor in model.graph.initializer if tensor.name not in weights]
            own = {info.name for info in model.graph.input}
            model.graph.input.extend(
                onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
                for t in model.graph.initializer
                if t.name in weights and t.name not in own
            )
            del model.graph.initializer[:]
            model.graph.initializer.extend(kept)
        self._evaluator = Corrected(model)

    def run(self, given: Sequence[tuple[str, str, int]], arrays: Sequence[Array]) -> tuple[list[str], list[Array]]:
        inputs = {**self._weights, **dict(_inputs(given, arrays, self._texts))}
        return _with_names(self._outputs, self._evaluator.run(self._outputs, inputs))


def _inputs(
    given: Sequence[tuple[str, str, int]], arrays: Sequence[Array], texts: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    rest = iter(arrays)
    for name, kind, count in given:
        values = [decode_strings(next(rest)) if name in texts else next(rest) for _ in range(count)]
        yield name, values if kind == "list" else values[0] if values else None


def _with_names(outputs: Sequence[str], results: Sequence[Any]) -> tuple[list[str], list[Array]]:
    """Names and arrays: a sequence's elements as "name.0", strings as the compiled model gives them."""
    names: list[str] = []
    arrays: list[Array] = []
    for name, result in zip(outputs, results, strict=True):
        for k, each in enumerate(result) if isinstance(result, list) else [(-1, result)]:
            names.append(name if k < 0 else f"{name}.{k}")
            value = np.asarray(each)
            arrays.append(encode_strings(value) if value.dtype.kind in "OUS" else value)
    return names, arrays

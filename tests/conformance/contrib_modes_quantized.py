"""What ONNX Runtime's quantizers write: dynamic, static (QDQ and QOperator), blocks of 4 and 8 bits; as written, and optimized behind that.

Results differ by what a few activations on the other side of a rounding tie do, so by steps, not by rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter

from .contrib_families import Family

__all__ = ["quantized"]

Make = Callable[[Family, Path, Path], "Path | None"]
STEPS = 3e-2  # of a result's scale
_SAMPLES = 4


class _Samples:
    """Inputs to calibrate with."""

    def __init__(self, family: Family) -> None:
        self._rows: Iterator[Any] = iter([family.feeds(seed) for seed in range(_SAMPLES)])

    def get_next(self) -> Any:
        return next(self._rows, None)


def _prepared(source: Path, folder: Path) -> Path:
    """As the quantizers' guide has it, but for shapes of symbols, which the static quantizer does without."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / "prepared.onnx"
    quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
    return path


def _before_indices(path: Path) -> list[str]:
    """Nodes whose floats are cast to integers: quantized they give other indices, and T5's buckets, logarithms of 0 among them, have an
    infinite scale."""
    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, None] = {}
    open_ = [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.INT64]
    while open_:
        for name in open_.pop().input:
            node = makers.get(name)
            if node is not None and node.name not in found and node.op_type != "Cast":
                found[node.name] = None
                open_.append(node)
    return list(found)


def _dynamic(before: Make | None = None, **options: Any) -> Make:
    def make(family: Family, source: Path, folder: Path) -> Path | None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        made = before(family, source, folder) if before is not None else source
        if made is None:
            return None
        given = {key: getattr(QuantType, value) if key == "weight_type" else value for key, value in options.items()}
        extra = {
            "DefaultTensorType": onnx.TensorProto.FLOAT
        }  # what onnx cannot infer behind ONNX Runtime's own operators
        quantize_dynamic(str(made), str(folder / "dynamic.onnx"), extra_options=extra, **given)
        return folder / "dynamic.onnx"

    return make


def _static(form: str, activations: str = "QUInt8", weights: str = "QInt8", **options: Any) -> Make:
    def make(family: Family, source: Path, folder: Path) -> Path | None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        prepared = _prepared(source, folder)
        quantize_static(
            str(prepared), str(folder / "static.onnx"), _Samples(family), nodes_to_exclude=_before_indices(prepared),
            quant_format=getattr(QuantFormat, form), activation_type=getattr(QuantType, activations),
            weight_type=getattr(QuantType, weights), **options,
        )  # fmt: skip
        return folder / "static.onnx"

    return make


def _blocks(bits: int, form: str = "QOperator", **options: Any) -> Make:
    def make(family: Family, source: Path, folder: Path) -> Path | None:
        from onnxruntime.quantization import QuantFormat
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        settings = DefaultWeightOnlyQuantConfig(
            block_size=32, bits=bits, quant_format=getattr(QuantFormat, form), **options
        )
        model = onnx.load(source)
        if form == "QDQ":  # or the quantizer writes that operator set over the file's own
            model = onnx.version_converter.convert_version(model, 21)
        quantizer = MatMulNBitsQuantizer(model, algo_config=settings)
        quantizer.process()
        quantizer.model.save_model_to_file(str(folder / "blocks.onnx"))
        return folder / "blocks.onnx"

    return make


def _then(first: Make, second: Make) -> Make:
    """One tool behind the other."""

    def make(family: Family, source: Path, folder: Path) -> Path | None:
        made = first(family, source, folder)
        return None if made is None else second(family, made, folder)

    return make


def _valid(make: Make) -> Make:
    """What ONNX Runtime itself does not load is not made."""

    def checked(family: Family, source: Path, folder: Path) -> Path | None:
        import onnxruntime

        made = make(family, source, folder)
        if made is not None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            onnxruntime.InferenceSession(str(made), options, providers=["CPUExecutionProvider"])
        return made

    return checked


def quantized(level: Callable[[str], Make], optimizer: Make) -> list[tuple[str, Make, float]]:
    """(name, maker, tolerance) of each mode; `level` is ONNX Runtime's own optimizer, `optimizer` the transformers optimizer."""
    extended, everything = level("ORT_ENABLE_EXTENDED"), level("ORT_ENABLE_ALL")
    modes = [
        ("dynamic int8", _dynamic(weight_type="QInt8"), STEPS),
        ("dynamic uint8", _dynamic(weight_type="QUInt8"), STEPS),
        ("dynamic int8, per channel", _dynamic(weight_type="QInt8", per_channel=True), STEPS),
        ("dynamic int8, all", _then(_dynamic(weight_type="QInt8"), everything), STEPS),
        ("transformers optimizer, dynamic int8", _dynamic(optimizer, weight_type="QInt8"), STEPS),
        ("static QDQ", _static("QDQ"), STEPS),
        ("static QDQ, per channel, int8", _static("QDQ", "QInt8", per_channel=True), STEPS),
        ("static QDQ, extended", _then(_static("QDQ"), extended), STEPS),
        ("static QDQ, all", _then(_static("QDQ", per_channel=True), everything), STEPS),
        ("static QOperator", _static("QOperator"), STEPS),
        ("static QOperator, int8", _static("QOperator", "QInt8"), STEPS),
        ("static QOperator, per channel", _static("QOperator", per_channel=True), STEPS),
        ("4 bits", _blocks(4), 1e-4),
        ("4 bits, symmetric", _blocks(4, is_symmetric=True), 1e-4),
        ("8 bits", _blocks(8), 1e-4),
        ("4 bits, QDQ", _blocks(4, "QDQ"), 1e-4),
    ]
    return [(name, _valid(make), tolerance) for name, make, tolerance in modes]

"""What ONNX Runtime's tools make of a model: each mode is a row here, a function from an exported file to a file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from .contrib_families import HEADS, HIDDEN, Family
from .contrib_modes_quantized import quantized

__all__ = ["MODES", "Mode"]


@dataclass(frozen=True)
class Mode:
    """`make(family, exported file, folder to write in)` gives the path of the new file, or None where the tool has nothing for this
    family. Results may differ from the reference's by `tolerance` of their scale."""

    name: str
    make: Callable[[Family, Path, Path], Path | None]
    tolerance: float = 1e-4


def _as_exported(family: Family, source: Path, folder: Path) -> Path:
    return source


def _level(name: str) -> Callable[[Family, Path, Path], Path]:
    """ONNX Runtime's own graph optimizer, saved at a level."""

    def make(family: Family, source: Path, folder: Path) -> Path:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        return folder / "optimized.onnx"

    return make


def _optimizer(*, mha: bool = False, half: bool = False) -> Callable[[Family, Path, Path], Path | None]:
    """onnxruntime.transformers.optimizer for the family's type of model."""

    def make(family: Family, source: Path, folder: Path) -> Path | None:
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        if not family.model_type:
            return None
        settings: Any = FusionOptions(family.model_type)
        settings.use_multi_head_attention = mha
        logging.disable(logging.ERROR)
        try:
            made = optimizer.optimize_model(
                str(source), family.model_type, num_heads=HEADS, hidden_size=HIDDEN, optimization_options=settings,
                opt_level=0, use_gpu=False,
            )  # fmt: skip
            if half:
                made.convert_float_to_float16(keep_io_types=True)
        finally:
            logging.disable(logging.NOTSET)
        made.save_model_to_file(str(folder / "optimizer.onnx"))
        return folder / "optimizer.onnx"

    return make


def _half(family: Family, source: Path, folder: Path) -> Path:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), folder / "half.onnx")
    return folder / "half.onnx"


MODES = [
    Mode("exported", _as_exported),
    Mode("basic", _level("ORT_ENABLE_BASIC")),
    Mode("extended", _level("ORT_ENABLE_EXTENDED")),
    Mode("all", _level("ORT_ENABLE_ALL")),
    Mode("transformers optimizer", _optimizer()),
    Mode("transformers optimizer, multi-head", _optimizer(mha=True)),
    Mode("transformers optimizer, float16", _optimizer(half=True), 2e-2),
    Mode("float16", _half, 2e-2),
    *(Mode(*mode) for mode in quantized(_level, _optimizer())),
]

"""A peer's side, run in its own environment: `python -m bench.compression._with_nncf FOLDER`.

FOLDER has model.onnx (float), calibration.npz and inputs.npz (arrays by input, samples along the first axis) and job.json. NNCF
quantizes with OverflowFix.ENABLE, whose weights have seven bits so that no CPU's sums saturate. OpenVINO computes the result twice: as it
ships, and with the quantized numbers in float32, which its kernels for 8 bits are at times far from. Written: outputs.<variant>.npz, and
model.<variant>.xml.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

nncf: Any = __import__("nncf")

EXECUTIONS = {"": {}, "-in-float": {"LP_TRANSFORMS_MODE": "NO"}}


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    nncf.set_log_level(logging.ERROR)
    model = ov.convert_model(folder / "model.onnx")
    with np.load(folder / "calibration.npz") as file:
        arrays = {name: file[name] for name in file.files}
    count = len(next(iter(arrays.values())))
    items = [{name: value[i : i + 1] for name, value in arrays.items()} for i in range(count)]
    for preset in ("performance", "mixed"):
        for smooth in (True, False) if job["transformer"] else (False,):
            variant = preset + ("-smooth" if smooth else "")
            quantized = nncf.quantize(
                model.clone(), nncf.Dataset(items), preset=nncf.QuantizationPreset(preset), subset_size=count,
                model_type=nncf.ModelType.TRANSFORMER if job["transformer"] else None,
                advanced_parameters=_parameters(smooth),
            )  # fmt: skip
            ov.save_model(quantized, folder / f"model.{variant}.xml", compress_to_fp16=False)
            for ending, settings in EXECUTIONS.items():
                try:
                    _run(quantized, folder, variant + ending, job["batch"], settings)
                except RuntimeError as error:  # an LSTM whose weights stay quantized does not run in float
                    print(f"{variant + ending}: {error}", file=sys.stderr)


def _parameters(smooth: bool) -> Any:
    off = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    more = {} if smooth else {"smooth_quant_alphas": off}
    return nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE, **more)


def _run(model: ov.Model, folder: Path, variant: str, batch: int, settings: dict[str, str]) -> None:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1", **settings}
    compiled = ov.Core().compile_model(model, "CPU", settings)
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    count = len(next(iter(inputs.values())))
    parts = [compiled({n: v[i : i + batch] for n, v in inputs.items()})[0].copy() for i in range(0, count, batch)]
    np.savez(folder / f"outputs.{variant}.npz", y=np.concatenate(parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

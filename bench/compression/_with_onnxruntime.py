"""A peer's side, run in a process of its own: `python -m bench.compression._with_onnxruntime FOLDER`; FOLDER is as `_with_nncf` has it.

Static quantization as its documentation advises: the model preprocessed, QDQ, weights by channel in seven bits (reduce_range, so
that no CPU's sums saturate), activations in 8. Ranges by minimum and maximum, and by percentiles.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
}


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Samples of calibration.npz, one by one."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}
        self._items = self._samples()

    def _samples(self) -> Iterator[dict[str, np.ndarray]]:
        for i in range(len(next(iter(self._arrays.values())))):
            yield {name: value[i : i + 1] for name, value in self._arrays.items()}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._items, None)


def main(folder: Path) -> None:
    logging.getLogger().setLevel(logging.ERROR)
    job = json.loads((folder / "job.json").read_text())
    ready = folder / "preprocessed.onnx"
    quant_pre_process(folder / "model.onnx", ready, skip_symbolic_shape=True)
    for variant, method in METHODS.items():
        target = folder / f"model.{variant}.onnx"
        quantization.quantize_static(
            ready, target, Reader(folder / "calibration.npz"), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            calibrate_method=method,
        )  # fmt: skip
        _run(target, folder, variant, job["batch"])


def _run(model: Path, folder: Path, variant: str, batch: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    count = len(next(iter(inputs.values())))
    parts = [session.run(None, {n: v[i : i + batch] for n, v in inputs.items()})[0] for i in range(0, count, batch)]
    np.savez(folder / f"outputs.{variant}.npz", y=np.concatenate(parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

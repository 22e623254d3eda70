"""What each peer loads, made from one model: `python -m bench._formats FORMAT MODEL BATCH FOLDER`, in the environment of its converter.

Every function writes into a folder that holds inputs.npz already, or raises with the reason why the model does not convert.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def write_torch(model: str, batch: int, folder: Path) -> None:
    """inputs.npz and expected.npz: the case's inputs, and what eager torch makes of them."""
    import torch

    module, inputs = _built(model, batch)
    np.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    with torch.inference_mode():
        result = module(**inputs)
    np.savez(folder / "expected.npz", *[t.numpy() for t in (result if isinstance(result, tuple) else (result,))])


def write_mrt(model: str, batch: int, folder: Path) -> None:
    """model.mrt: compiled for this machine, verified against torch as every compile is."""
    from maas_rt import compiler

    module, inputs = _built(model, batch)
    compiler.compile(module, inputs, name=model).save(folder / "model.mrt")


def write_onnx(model: str, batch: int, folder: Path) -> None:
    """model.onnx, by torch's exporter; outputs are named y0, y1, ..."""
    import torch

    module, inputs = _built(model, batch)
    with np.load(folder / "expected.npz") as expected:
        outputs = [f"y{i}" for i in range(len(expected.files))]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (),
            str(folder / "model.onnx"),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            external_data=False,
            verbose=False,
        )


def write_qdq(model: str, batch: int, folder: Path) -> None:
    """model.onnx of int8 (QuantizeLinear, DequantizeLinear) from f32.onnx, by ONNX Runtime's static quantization, and what it should give.

    Activations u8, weights s8 by channel in seven bits, which is what ONNX Runtime's documentation advises for CPUs without VNNI: with
    eight, its sums and OpenVINO's saturate here (MobileNetV2: eight times the error of the file). Ranges by minimum and maximum over 16
    inputs drawn like the model's own. tolerance.json has the error of the file as it is defined, run without any optimisation, against
    f32.
    """
    import json

    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from bench._agreement import scaled_rms

    class Drawn(quantization.CalibrationDataReader):
        def __init__(self, count: int) -> None:
            self._left = iter([_like(model, batch, seed) for seed in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    quant_pre_process(str(folder / "f32.onnx"), str(folder / "folded.onnx"), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(folder / "folded.onnx"),
        str(folder / "model.onnx"),
        Drawn(16),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected.npz") as expected:
        got = session.run(None, {name: inputs[name] for name in inputs.files})
        error = scaled_rms([expected[name] for name in expected.files], got)
    (folder / "tolerance.json").write_text(json.dumps({"rms_error_of_the_file": error}) + "\n")


def write_mrt_int8(model: str, batch: int, folder: Path) -> None:
    """model.mrt from the quantized model.onnx, as any quantized model arrives."""
    from maas_rt import compiler

    compiler.compile(folder / "model.onnx", name=model).save(folder / "model.mrt")


def _like(model: str, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs for calibration: normal numbers for real inputs, the case's own whole numbers turned around."""
    rng, (_, inputs) = np.random.default_rng(seed), _built(model, batch)
    return {
        name: rng.standard_normal(value.shape, np.float32)
        if value.is_floating_point()
        else rng.permuted(value.numpy(), axis=0 if model == "dlrm" else None)
        for name, value in inputs.items()
    }


def write_torchscript(model: str, batch: int, folder: Path) -> None:
    """model.pt: traced, which is what pnnx reads."""
    import torch

    module, inputs = _built(model, batch)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, tuple(inputs.values()), check_trace=False).save(str(folder / "model.pt"))


def write_ncnn(model: str, batch: int, folder: Path) -> None:
    """model.ncnn.param and .bin, by pnnx's program, in f32. Only batches of one: ncnn has no batch axis."""
    from importlib import metadata

    if batch != 1:
        raise RuntimeError("ncnn takes items one by one, from the conversion at batch 1")
    program = next(
        str(file.locate())
        for file in metadata.files("pnnx") or []
        if file.name == "pnnx" and file.parent.name == "pnnx"
    )
    with np.load(folder / "inputs.npz") as file:
        kinds = {"float32": "f32", "int64": "i64"}
        shapes = ",".join(
            "[" + ",".join(map(str, file[name].shape)) + "]" + kinds[str(file[name].dtype)] for name in file.files
        )
    done = subprocess.run(
        [program, "model.pt", f"inputshape={shapes}", "fp16=0"], cwd=folder, capture_output=True, text=True
    )
    if done.returncode != 0 or not (folder / "model.ncnn.param").exists():
        raise RuntimeError(f"pnnx ended with status {done.returncode}: {_last_line(done.stderr)}")


def write_mnn(model: str, batch: int, folder: Path) -> None:
    """model.mnn, by MNN's converter from ONNX."""
    # The converter itself: `mnnconvert`, its wrapper, installs a package for telemetry with whichever pip it finds, and reports.
    import _tools

    target = folder / "model.mnn"
    # No --keepInputFormat: with it, MNN 3.6.1 computes ResNet-50 wrong, differently from call to call. Recurrent layers as operators: made
    # into loops, they crash the converter.
    command = ["mnnconvert", "-f", "ONNX", "--modelFile", str(folder / "model.onnx"), "--MNNModel", str(target)]
    _tools.mnnconvert([*command, "--bizCode", "bench", "--useOriginRNNImpl"])
    if not target.exists():
        raise RuntimeError("mnnconvert wrote no model; its messages are in the log beside this")


def write_tflite(model: str, batch: int, folder: Path) -> None:
    """model.tflite, by litert-torch."""
    import litert_torch

    module, inputs = _built(model, batch)
    litert_torch.convert(module, tuple(inputs.values())).export(str(folder / "model.tflite"))


def _built(model: str, batch: int) -> tuple[Any, dict[str, Any]]:
    from bench.models import EVERY

    return EVERY[model].module(), EVERY[model].inputs(batch)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


FORMATS = {
    name.removeprefix("write_"): function for name, function in list(globals().items()) if name.startswith("write_")
}


def main() -> None:
    name, model, batch, folder = sys.argv[1:]
    FORMATS[name](model, int(batch), Path(folder))


if __name__ == "__main__":
    main()

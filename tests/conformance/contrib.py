"""What ONNX Runtime's tools write, against ONNX Runtime: cases of single operators, and small models of twelve families in every mode.

    python -m tests.conformance contrib                          everything, results/contrib.json with --update
    python -m tests.conformance contrib --part nodes --match Gelu -v
    python -m tests.conformance contrib --part models --match bert/extended -v

A model's name is family/mode. Outcomes: pass; refused (by name); wrong (a result differs); crash; of a model also "not made" (the tool itself
fails), of an operator "no oracle" (ONNX Runtime refuses it). Needs `pip install transformers`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

RESULTS = Path(__file__).resolve().parent / "results" / "contrib.json"
OUTCOMES = ("pass", "refused", "wrong", "crash")
USUAL = ("", "ai.onnx")
Arrays = Mapping[str, Any]


@dataclass
class Outcome:
    name: str
    result: str
    message: str = ""
    operators: dict[str, int] = field(default_factory=dict)  # of other domains, by count


def reference(model: onnx.ModelProto | Path, feeds: Arrays) -> dict[str, Any]:
    """ONNX Runtime's results for the file as it is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def compiled(model: onnx.ModelProto | Path, feeds: Arrays) -> dict[str, Any]:
    """What this project makes of it."""
    from maas_rt.compiler import compile as compile_model

    import maas_rt

    artifact = compile_model(model, verify=False)
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    given = {i.name: feeds[i.name] for i in program.inputs}
    texts = {name: maas_rt.encode_strings(v) for name, v in given.items() if v.dtype.kind in "OUS"}
    return dict(program.run({**given, **texts}))


def difference(got: Arrays, want: Arrays, tolerance: float) -> str:
    """What differs, or ""; floating point by `tolerance` of the largest finite result, everything else exactly."""
    import maas_rt

    for name, b in want.items():
        if b is None:
            continue
        b = np.asarray(b)
        a = got.get(name)
        if a is None:
            return f"output '{name}' is missing"
        if b.dtype.kind in "OUS":
            a = maas_rt.decode_strings(a)
            if a.shape != b.shape or not np.array_equal(a.astype(object), b.astype(object)):
                return f"output '{name}' is {a.tolist()}, expected {b.tolist()}"
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output '{name}' is {a.dtype} {a.shape}, expected {b.dtype} {b.shape}"
        if b.dtype.kind not in "fc":
            if not np.array_equal(a, b):
                return f"output '{name}' differs in {np.sum(a != b)} of {b.size} elements"
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        if not np.array_equal(np.isnan(x), np.isnan(y)) or not np.array_equal(np.isinf(x), np.isinf(y)):
            return f"output '{name}' has other infinities or NaNs"
        finite = np.isfinite(y)
        scale = max(float(np.abs(y[finite]).max(initial=0)), 1e-6)
        error = float(np.abs(x[finite] - y[finite]).max(initial=0)) / scale
        if not error <= tolerance:
            return f"output '{name}' has an error of {error:.2g} of its scale"
    return ""


def judged(model: onnx.ModelProto | Path, feeds: Arrays, want: Arrays, tolerance: float) -> tuple[str, str]:
    import maas_rt

    try:
        got = compiled(model, feeds)
    except maas_rt.UnsupportedOperatorError as error:
        return "refused", str(error)
    except maas_rt.Error as error:
        return "crash", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "crash", f"{type(error).__name__}: {str(error).strip()[-300:]}"
    why = difference(got, want, tolerance)
    return ("wrong", why) if why else ("pass", "")


def run_models(match: str, report: Any) -> list[Outcome]:
    from .contrib_families import FAMILIES
    from .contrib_modes import MODES

    outcomes = []
    for family in FAMILIES:
        wanted = [mode for mode in MODES if match in f"{family.name}/{mode.name}"]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / "exported.onnx"
            family.export(exported)
            feeds = family.feeds(1)
            plain = reference(exported, feeds)
            for mode in wanted:
                outcome = _run_mode(family, mode, exported, feeds, plain)
                if outcome is not None:
                    outcomes.append(outcome)
                    report(outcome)
    return outcomes


def _run_mode(family: Any, mode: Any, exported: Path, feeds: Arrays, plain: Arrays) -> Outcome | None:
    name = f"{family.name}/{mode.name}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mode.make(family, exported, Path(folder))
        except Exception as error:
            return Outcome(name, "not made", f"{type(error).__name__}: {str(error)[:200]}")
        if path is None:
            return None
        try:
            want = reference(path, feeds)
        except Exception:  # no kernel for this type on a CPU: what the model means is what it was made of
            want = plain
        graph = onnx.load(path, load_external_data=False).graph
        operators = Counter(f"{n.domain}::{n.op_type}" for n in graph.node if n.domain not in USUAL)
        result, message = judged(path, feeds, want, mode.tolerance)
        return Outcome(name, result, message, dict(sorted(operators.items())))


def run_nodes(match: str, report: Any) -> list[Outcome]:
    from .contrib_nodes import cases

    outcomes = []
    for case in cases():
        if match in case.name:
            outcomes.append(Outcome(case.name, *run_node(case)))
            report(outcomes[-1])
    return outcomes


def run_node(case: Any) -> tuple[str, str]:
    """One operator by itself: (outcome, message)."""
    model, feeds = case.model(), case.feeds()
    if case.expected:
        want = dict(zip([o.name for o in model.graph.output], case.expected, strict=True))
    else:
        try:
            same = case.oracle or case
            want = reference(same.model(), same.feeds())
        except Exception as error:
            return "no oracle", str(error)
    return judged(model, feeds, want, case.tolerance)


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    found = [o.result for o in outcomes]
    return {key: found.count(key) for key in OUTCOMES}


def record(parts: Mapping[str, list[Outcome]]) -> None:
    """Write outcomes into the results, in the place of those of the same names."""
    listed = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part, found in parts.items():
        kept = {case["name"]: case for case in listed.get(part, {}).get("cases", [])}
        kept |= {o.name: asdict(o) for o in found}
        results = [case["result"] for case in kept.values()]
        totals = {key: results.count(key) for key in OUTCOMES}
        listed[part] = {"counts": totals, "cases": sorted(kept.values(), key=lambda case: str(case["name"]))}
    RESULTS.write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance contrib", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=("nodes", "models"), help="only this one")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--update", action="store_true", help="write what ran into results/contrib.json; the rest of it stays"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print every case")
    options = parser.parse_args(arguments)

    def report(o: Outcome) -> None:
        if options.verbose or o.result != "pass":
            print(f"{o.result:8} {o.name}  {o.message[:400]}", flush=True)

    began = time.monotonic()
    parts: dict[str, list[Outcome]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part, run in (("nodes", run_nodes), ("models", run_models)):
            if options.part in (None, part):
                parts[part] = run(options.match, report)
    for part, outcomes in parts.items():
        print(f"contrib {part}: {counts(outcomes)} of {len(outcomes)} in {time.monotonic() - began:.0f} s")
    if options.update:
        record(parts)
    return 1 if any(o.result in ("wrong", "crash") for found in parts.values() for o in found) else 0

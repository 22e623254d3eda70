"""ONNX's own backend tests against this compiler: a case passes, or the import refuses it by name; wrong and crash must be 0.

    python -m tests.conformance onnx                         all kinds, 2 processes, results/onnx.json
    python -m tests.conformance onnx --kind node --shard 1/4 one quarter of the node cases
    python -m tests.conformance onnx --match attention -v    some, with their messages

Outcomes: pass; refused (UnsupportedOperatorError, or an ImportModelError that names what is not supported); random (the model draws: its
results have the types and shapes that are expected, and other numbers than the generator that made the case); wrong (a result differs); crash (any other exception, a signal, or a timeout). What was run is cached under build/conformance/ by a hash of the sources, so that an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import queue
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
EXPECTED = Path(__file__).resolve().parent / "expected_failures.json"
KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
TIMEOUT = 300.0


@dataclass
class Outcome:
    name: str
    kind: str
    opset: int
    result: str  # pass, refused, random, wrong, crash
    message: str = ""
    seconds: float = 0.0


def load_cases(kinds: tuple[str, ...]) -> list[tuple[str, Any]]:
    """(kind, case) of the installed onnx, in a fixed order."""
    import warnings

    from onnx.backend.test.loader import load_model_tests

    out = []
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            devnull = os.open(os.devnull, os.O_WRONLY)
            saved = os.dup(1)
            os.dup2(devnull, 1)  # some generators print
            try:
                cases = load_model_tests(kind=kind)
            finally:
                os.dup2(saved, 1)
                os.close(devnull)
                os.close(saved)
        out.extend((kind, c) for c in sorted(cases, key=lambda c: c.name))
    return out


def opset_of(model: Any) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def model_and_data(case: Any) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    """The case's model and its (inputs, outputs), from memory or from its folder."""
    import onnx
    from onnx import numpy_helper

    if case.model is not None:
        sets = [([_array(v) for v in inputs], [_array(v) for v in outputs]) for inputs, outputs in case.data_sets or []]
        return case.model, sets
    folder = Path(case.model_dir)
    model = onnx.load(str(folder / "model.onnx"))
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        sides = []
        for side, infos in (("input", model.graph.input), ("output", model.graph.output)):
            values: list[Any] = []
            for i in range(len(list(data.glob(f"{side}_*.pb")))):
                raw = (data / f"{side}_{i}.pb").read_bytes()
                kind = infos[i].type.WhichOneof("value") if i < len(infos) else "tensor_type"
                if kind != "tensor_type":
                    values.append(None)
                    continue
                values.append(numpy_helper.to_array(onnx.TensorProto.FromString(raw)))
            sides.append(values)
        sets.append((sides[0], sides[1]))
    return model, sets


def _array(value: Any) -> Any:
    """A case's value as numpy; what is no tensor stays what it is."""
    import onnx
    from onnx import numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


class VirtualMachine:
    """Runs an imported function in TVM's own virtual machine: the development oracle."""

    def __init__(self, model: Any, shapes: dict[str, Any]) -> None:
        import tvm
        from maas_rt.compiler.importers.onnx import import_onnx
        from tvm import relax

        imported = import_onnx(model, input_shapes=shapes)
        self.names, self.outputs = imported.input_names, imported.output_names
        self.draws = False  # TVM's machine has no kernels that draw
        self._device = tvm.cpu()
        with tvm.transform.PassContext(opt_level=1):
            self._vm = relax.VirtualMachine(relax.build(imported.mod, "llvm"), self._device)

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        import tvm

        arguments = [
            tvm.runtime.tensor(np.ascontiguousarray(inputs[n]).reshape(np.shape(inputs[n]))) for n in self.names
        ]
        return [r.numpy() for r in self._vm["main"](*arguments)]


class Runtime:
    """The real thing: compile to a file in memory, load it, run it."""

    def __init__(self, model: Any, shapes: dict[str, Any]) -> None:
        from maas_rt.compiler import compile as compile_model

        import maas_rt

        artifact = compile_model(model, verify=False, input_shapes=shapes)
        self._model = maas_rt.load(artifact.to_bytes(), threads=1)
        self.names = [i.name for i in self._model.inputs]
        self.outputs = [o.name for o in self._model.outputs]
        steps = [step for block in artifact.linear.plan.blocks for step in block.steps]
        self.draws = any(step.target.startswith("random_") for step in steps)

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        out = self._model.run({n: inputs[n] for n in self.names})
        return [out[name] for name in self.outputs]


ENGINES = {"vm": VirtualMachine, "runtime": Runtime}


def run_case(case: Any, engine: str) -> tuple[str, str]:
    import maas_rt

    try:
        model, sets = model_and_data(case)
        initial = {t.name for t in model.graph.initializer}
        infos = [i for i in model.graph.input if i.name not in initial]
        shapes = structure(infos, sets[0][0]) if sets else {}
        program = ENGINES[engine](model, shapes)
        for number, (inputs, outputs) in enumerate(sets):
            given: dict[str, Any] = {}
            for info, value in zip(infos, inputs, strict=False):
                listed = isinstance(value, list)
                parts = {f"{info.name}.{k}": v for k, v in enumerate(value)} if listed else {info.name: value}
                given.update({name: as_bytes(part) for name, part in parts.items()})
            got = gathered(program.run(given), program.outputs, [o.name for o in model.graph.output], outputs)
            why = compare(got, [as_bytes(o) for o in outputs], case.rtol, case.atol)
            if why and program.draws and _alike(got, outputs):
                return "random", "it draws random numbers, which no two generators share"
            if why:
                return "wrong", f"data set {number}: {why}"
    except maas_rt.UnsupportedOperatorError as error:
        return "refused", str(error)
    except maas_rt.ImportModelError as error:
        return "crash", f"ImportModelError: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error).strip().splitlines() or [""])[-1]
        return "crash", f"{type(error).__name__}: {first[:300]} ({Path(where.filename).name}:{where.lineno})"
    return "pass", ""


def _alike(got: list[Any], want: list[Any]) -> bool:
    """Whether the results have the types and shapes of those that are wanted."""
    return [(a.dtype, a.shape) for a in got] == [(np.asarray(b).dtype, np.shape(b)) for b in want]


def as_bytes(value: Any) -> Any:
    """A tensor of strings as a run takes and gives it; anything else as it is."""
    import maas_rt

    return maas_rt.encode_strings(value) if isinstance(value, np.ndarray) and value.dtype.kind in "OUS" else value


def structure(infos: list[Any], inputs: list[Any]) -> dict[str, Any]:
    """What an import has to be told of sequences and optionals: how many elements of which shapes, or that there is nothing."""
    shapes: dict[str, Any] = {}
    for info, value in zip(infos, inputs, strict=False):
        if info.type.WhichOneof("value") in ("sequence_type", "optional_type"):
            if isinstance(value, list):
                shapes[info.name] = [np.shape(v) for v in value]
            else:
                shapes[info.name] = None if value is None else np.shape(value)
    return shapes


def gathered(got: list[Any], names: list[str], outputs: list[str], want: list[Any]) -> list[Any]:
    """A run's results with the elements of a sequence as a list again."""
    if len(names) == len(outputs) and not any(isinstance(w, list) for w in want):
        return got
    by_name = dict(zip(names, got, strict=True))
    out: list[Any] = []
    for name in outputs:
        elements = [by_name[n] for n in names if n.rpartition(".")[0] == name]
        out.append(by_name.get(name, elements))
    return out


def compare(got: list[Any], want: list[Any], rtol: float, atol: float) -> str:
    """What differs, or ""; the comparison of onnx.backend.test.runner, and exact for everything but floating point.

    The absolute tolerance of float32 and float64 is at least two roundings of the output's largest element: where terms of that size
    cancel, what is left is noise of whoever computed it (the imaginary part of test_dft_inverse_opset19).
    """
    if len(got) != len(want):
        return f"{len(got)} outputs, expected {len(want)}"
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if isinstance(b, list):
            why = compare(a, b, rtol, atol) if isinstance(a, list) else "no sequence"
            if why:
                return f"output {i}: {why}"
            continue
        b = np.asarray(b)
        if a.dtype != b.dtype:
            return f"output {i} is {a.dtype}, expected {b.dtype}"
        if a.shape != b.shape:
            return f"output {i} has shape {a.shape}, expected {b.shape}"
        small = b.dtype.name.startswith(("float8", "float4"))
        x, y = (v.astype(np.float32) if small or v.dtype.name == "bfloat16" else v for v in (a, b))
        if small:
            same = (x == y) | (np.isnan(x) & np.isnan(y))
        elif x.dtype.kind in "fc":
            finite = np.abs(y[np.isfinite(y)])
            noise = (
                2 * float(np.finfo(y.dtype).eps) * float(finite.max(initial=0))
                if b.dtype in (np.float32, np.float64)
                else 0.0
            )
            same = np.isclose(x, y, rtol=rtol, atol=max(atol, noise), equal_nan=True)
        else:
            same = x == y
        if not np.all(same):
            at = np.unravel_index(int(np.argmin(same)), np.shape(same)) if np.ndim(same) else ()
            return f"output {i}: {np.sum(~np.asarray(same))} of {x.size} elements differ, first at {tuple(map(int, at))}: {x[at]} != {y[at]}"
    return ""


# ---- running many


def _worker(cases: list[tuple[str, Any]], engine: str, todo: Any, done: Any) -> None:
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    sys.path.insert(0, str(ROOT))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    if not os.environ.get("CONFORMANCE_STDERR"):
        os.dup2(devnull, 2)
    while (number := todo.get()) is not None:
        kind, case = cases[number]
        done.put(("start", number, os.getpid(), None))
        began = time.monotonic()
        result, message = run_case(case, engine)
        model = case.model if case.model is not None else None
        opset = opset_of(model) if model is not None else 0
        done.put(
            (
                "end",
                number,
                os.getpid(),
                Outcome(case.name, kind, opset, result, message, round(time.monotonic() - began, 3)),
            )
        )


def run_all(cases: list[tuple[str, Any]], numbers: list[int], engine: str, jobs: int, report: Any) -> None:
    """Run cases in worker processes; a worker that dies or hangs costs one case, not the run."""
    context = multiprocessing.get_context("fork")
    todo, done = context.Queue(), context.Queue()
    for number in numbers:
        todo.put(number)
    for _ in range(jobs):
        todo.put(None)
    running: dict[int, tuple[int, float]] = {}
    workers = {}

    def start() -> None:
        process = context.Process(target=_worker, args=(cases, engine, todo, done), daemon=True)
        process.start()
        workers[process.pid] = process

    for _ in range(jobs):
        start()
    left = len(numbers)
    while left:
        try:
            what, number, pid, outcome = done.get(timeout=1.0)
        except queue.Empty:
            for pid, process in list(workers.items()):
                hung = pid in running and time.monotonic() - running[pid][1] > TIMEOUT
                if process.is_alive() and not hung:
                    continue
                if hung:
                    process.kill()
                process.join()
                del workers[pid]
                if pid in running:
                    number = running.pop(pid)[0]
                    kind, case = cases[number]
                    why = "timeout" if hung else f"the process died (exit code {process.exitcode})"
                    report(Outcome(case.name, kind, 0, "crash", why, TIMEOUT if hung else 0.0))
                    left -= 1
                    start()
            if not workers and left:
                start()
            continue
        if what == "start":
            running[pid] = (number, time.monotonic())
        else:
            running.pop(pid, None)
            report(outcome)
            left -= 1
    for process in workers.values():
        process.join(timeout=5)


def source_hash(engine: str) -> str:
    import onnx
    import tvm

    digest = hashlib.sha256(f"{engine} {onnx.__version__} {tvm.__version__}".encode())
    folders = ["compiler/importers"] if engine == "vm" else ["compiler", "maas_rt", "csrc"]
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cc", ".h", ".inc", ".so") and path.is_file():
                digest.update(
                    path.relative_to(ROOT).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest()
                )
    return digest.hexdigest()[:16]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance onnx", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind of case (may be repeated)")
    parser.add_argument("--match", default="", help="only cases whose name contains this text (several: a,b)")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th case, beginning with the i-th")
    parser.add_argument(
        "--engine", choices=sorted(ENGINES), default="runtime", help="vm: TVM's virtual machine, for development"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--fresh", action="store_true", help="do not use what an interrupted run of the same sources left"
    )
    parser.add_argument("--retry", action="store_true", help="only cases that did not pass in the recorded results")
    parser.add_argument(
        "--update", action="store_true", help="write results/onnx.json, and let expected failures shrink"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print each case that does not pass")
    options = parser.parse_args(arguments)
    kinds = tuple(options.kind or KINDS)
    cases = load_cases(kinds)
    part, parts = (int(p) for p in options.shard.split("/"))
    words = [w for w in options.match.split(",") if w]
    recorded = _recorded(options.engine)
    picked = [
        i for i, (_, c) in enumerate(cases) if i % parts == part - 1 and (not words or any(w in c.name for w in words))
    ]
    if options.retry:
        picked = [i for i in picked if recorded.get(cases[i][1].name, ("", ""))[0] != "pass"]
    cache = ROOT / "build" / "conformance" / f"onnx-{source_hash(options.engine)}.jsonl"
    cache.parent.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    if cache.exists() and not options.fresh:
        for line in cache.read_text().splitlines():
            o = Outcome(**json.loads(line))
            outcomes[o.name] = o
    wanted = {cases[i][1].name for i in picked}
    outcomes = {k: v for k, v in outcomes.items() if k in wanted and v.result != "crash"}
    numbers = [i for i in picked if cases[i][1].name not in outcomes]
    opsets = {c.name: opset_of(c.model) for _, c in cases if c.model is not None}
    began = time.monotonic()
    with cache.open("a") as log:

        def report(o: Outcome) -> None:
            o.opset = o.opset or opsets.get(o.name, 0)
            outcomes[o.name] = o
            log.write(json.dumps(asdict(o)) + "\n")
            log.flush()
            if sys.stderr.isatty() or len(outcomes) % 100 == 0:
                print(f"\r{len(outcomes)}/{len(picked)} {time.monotonic() - began:.0f} s", end="", file=sys.stderr)

        run_all(cases, numbers, options.engine, options.jobs, report)
    print(file=sys.stderr)
    everything = [outcomes[cases[i][1].name] for i in picked]
    if options.verbose:
        for o in everything:
            if o.result == "refused":
                print(f"{o.result:8} {o.name}: {o.message}")
    table = summary(everything)
    print_table(table)
    for o in everything:
        recorded[o.name] = (o.result, o.message)
    _record(options.engine, recorded)
    return judge(everything, table, options, complete=parts == 1 and not words and not options.retry and kinds == KINDS)


def _recorded(engine: str) -> dict[str, tuple[str, str]]:
    path = ROOT / "build" / "conformance" / f"last-{engine}.json"
    return {k: (v[0], v[1]) for k, v in json.loads(path.read_text()).items()} if path.exists() else {}


def _record(engine: str, recorded: dict[str, tuple[str, str]]) -> None:
    path = ROOT / "build" / "conformance" / f"last-{engine}.json"
    path.write_text(json.dumps(recorded, indent=0, sort_keys=True))


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """Counts per kind; node cases of the newest operator set (28, not released) and without one apart."""
    table: dict[str, dict[str, int]] = {}
    for o in outcomes:
        row = o.kind
        if o.kind == "node":
            row = "node, opset <= 27" if 0 < o.opset <= 27 else "node, opset 28" if o.opset else "node, other domains"
        counts = table.setdefault(row, {"cases": 0, "pass": 0, "refused": 0, "random": 0, "wrong": 0, "crash": 0})
        counts["cases"] += 1
        counts[o.result] += 1
    return dict(sorted(table.items()))


def print_table(table: dict[str, dict[str, int]]) -> None:
    print(f"{'kind':24}{'cases':>8}{'pass':>8}{'refused':>9}{'random':>8}{'wrong':>7}{'crash':>7}")
    for kind, c in table.items():
        print(f"{kind:24}{c['cases']:8}{c['pass']:8}{c['refused']:9}{c['random']:8}{c['wrong']:7}{c['crash']:7}")


def judge(outcomes: list[Outcome], table: dict[str, dict[str, int]], options: Any, *, complete: bool) -> int:
    """0 if nothing is wrong or crashed and what failed was expected to; writes the results of a complete run."""
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {"onnx": []}
    failures = sorted(o.name for o in outcomes if o.result != "pass")
    known = set(expected.get("onnx", []))
    surprising = [name for name in failures if name not in known]
    passing = sorted(known & {o.name for o in outcomes if o.result == "pass"})
    bad = [o for o in outcomes if o.result in ("wrong", "crash")]
    for o in bad:
        print(f"{o.result}: {o.name}: {o.message}")
    if options.update and complete:
        RESULTS.mkdir(exist_ok=True)
        reasons = {o.name: o.message for o in outcomes if o.result != "pass"}
        payload = {"engine": options.engine, "table": table, "not_passing": dict(sorted(reasons.items()))}
        (RESULTS / "onnx.json").write_text(json.dumps(payload, indent=1, sort_keys=True) + "\n")
        expected["onnx"] = failures if not known else sorted(known & set(failures))
        EXPECTED.write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
        surprising = [name for name in failures if name not in expected["onnx"]]
    elif passing:
        print(f"{len(passing)} expected failures pass now: run again with --update")
    if surprising and EXPECTED.exists():
        print(f"{len(surprising)} cases fail that were not expected to: {', '.join(surprising[:20])}")
    return 1 if bad or (surprising and EXPECTED.exists()) else 0


if __name__ == "__main__":
    sys.exit(main())

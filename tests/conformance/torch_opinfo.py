"""torch's operator database (OpInfo) against this compiler: every operator with its own float32 samples, through torch.export.

    python -m tests.conformance torch_opinfo                 all operators, results/torch_opinfo.json with --update
    python -m tests.conformance torch_opinfo --match add,mul -v
    python -m tests.conformance torch_opinfo --shard 1/4     one quarter of the operators

An operator's samples are at most four of different form (ranks and other arguments), smallest first, none with an empty tensor. Their
tensors are dense copies and the inputs of a module, all else in them is constant; a complex result is compared as pairs. Outcomes: pass (all samples);
refused (by name); wrong (worst element beyond 1e-4 of the output's scale, whole numbers unequal); crash (any other exception, a
signal, a timeout); and, not counted: not_exported (torch.export refuses all samples), random (each call gives something else).
What was run is cached under build/conformance/ by a hash of the sources.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.conformance.onnx_backend import ROOT, source_hash

RESULTS = Path(__file__).resolve().parent / "results" / "torch_opinfo.json"
LAST = ROOT / "build" / "conformance" / "last-torch-opinfo.json"
KINDS = ("pass", "refused", "wrong", "crash", "not_exported", "random")
SAMPLES = 4
BOUND = 1e-4
TIMEOUT = 240.0
LARGEST = 1 << 20  # elements of a sample's tensors
# Memory that nobody wrote to: every value is right, so none can be compared.
UNDEFINED = frozenset(
    "empty empty_like empty_permuted empty_strided new_empty new_empty_strided resize_ resize_as_".split()
)


@dataclass
class Outcome:
    name: str
    result: str
    message: str = ""
    samples: int = 0
    seconds: float = 0.0


@dataclass
class Sample:
    """One call: the tree of its arguments, their leaves (tensors are dense copies), and what torch returns."""

    spec: Any
    leaves: list[Any]
    expected: list[Any]

    def tensors(self) -> list[Any]:
        import torch

        return [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]


def operators() -> dict[str, Any]:
    """The operators that take float32 on a CPU, by name and variant."""
    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    found = [op for op in op_db if op.supports_dtype(torch.float32, "cpu")]
    return {f"{op.name}.{op.variant_test_name}".rstrip("."): op for op in found}


def samples_of(op: Any) -> tuple[list[Sample], str]:
    """The operator's samples, and why there are none: "random" or "not_exported"."""
    import torch

    forms: dict[Any, tuple[int, Any, list[Any]]] = {}
    torch.manual_seed(0)
    for sample in op.sample_inputs("cpu", torch.float32, requires_grad=False):
        leaves, spec = torch.utils._pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        size = sum(t.numel() for t in tensors)
        if any(t.layout != torch.strided or t.numel() == 0 for t in tensors) or size > LARGEST:
            continue
        form = str(spec), *[(t.ndim, t.dtype) if isinstance(t, torch.Tensor) else repr(t) for t in leaves]
        if form not in forms or size < forms[form][0]:
            forms[form] = size, spec, leaves
    picked: list[Sample] = []
    reason = "random" if op.name in UNDEFINED else "not_exported"
    for _, spec, leaves in sorted(forms.values(), key=lambda item: item[0]):
        if op.name in UNDEFINED or len(picked) == SAMPLES:
            break
        dense = [_dense(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        try:
            first, second = (_eager(op, spec, dense, seed) for seed in (0, 1))
        except Exception:  # a call that asks for strides which a dense copy does not have
            continue
        if all(_error(a, b) == 0 for a, b in zip(first, second)):
            picked.append(Sample(spec, dense, first))
        else:
            reason = "random"
    return picked, reason


def _dense(tensor: Any) -> Any:
    import torch

    return tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _eager(op: Any, spec: Any, leaves: list[Any], seed: int) -> list[Any]:
    """The leaves of the operator's result as numpy."""
    import torch

    seeded = torch.manual_seed
    args, kwargs = torch.utils._pytree.tree_unflatten([_copy(leaf) for leaf in leaves], spec)
    seeded(seed)
    with (
        torch.no_grad(),
        mock.patch("torch.manual_seed", lambda _: seeded(seed)),
    ):  # (some samples bring a seed of their own)
        return [_array(leaf) for leaf in torch.utils._pytree.tree_leaves(op.op(*args, **kwargs)) if leaf is not None]


def _copy(leaf: Any) -> Any:
    import torch

    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _array(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    dense = dense.resolve_conj().resolve_neg()
    return (torch.view_as_real(dense) if dense.is_complex() else dense).numpy()


def _error(found: Any, expected: Any) -> float:
    from tests.compiler._imported_oracle import relative_error

    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    return relative_error(found, expected)


def module_of(op: Any, samples: list[Sample]) -> Any:
    """All samples as one module: an export takes longer than what is exported."""
    import torch

    class Calls(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> list[Any]:
            given = iter(tensors)
            results = []
            for sample in samples:
                leaves = [
                    next(given).clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in sample.leaves
                ]  # (a caller's array is never written to)
                args, kwargs = torch.utils._pytree.tree_unflatten(leaves, sample.spec)
                results.append(op.op(*args, **kwargs))
            return results

    return Calls()


def exported(op: Any, samples: list[Sample]) -> Any:
    """The samples that torch.export takes, as one program; None if it takes none. The list is cut down to them."""
    import torch

    def export(some: list[Sample]) -> Any:
        with torch.no_grad():
            return torch.export.export(module_of(op, some), tuple(t for s in some for t in s.tensors()), strict=False)

    try:
        return export(samples)
    except Exception:
        kept = []
        for sample in samples:
            try:
                export([sample])
                kept.append(sample)
            except Exception:
                continue
        samples[:] = kept
        return export(samples) if samples else None


def run_operator(name: str, op: Any) -> Outcome:
    """Export, compile, run, and compare with eager torch."""
    from maas_rt.compiler import compile

    import maas_rt

    start = time.monotonic()
    samples: list[Sample] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples, why = samples_of(op)
            if not samples:
                return Outcome(name, why)
            program = exported(op, samples)
        if program is None:
            return Outcome(name, "not_exported")
        model = maas_rt.load(compile(program, verify=False).to_bytes(), threads=1)
        given = [t.numpy() for sample in samples for t in sample.tensors()]
        found = model.run({info.name: array for info, array in zip(model.inputs, given, strict=True)})
        message = _difference(samples, [found[info.name] for info in model.outputs])
        outcome = Outcome(name, "wrong" if message else "pass", message)
    except (maas_rt.UnsupportedOperatorError, maas_rt.ImportModelError) as error:
        outcome = Outcome(name, "refused", str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
        outcome = Outcome(name, "crash", text)
    outcome.samples, outcome.seconds = len(samples), round(time.monotonic() - start, 2)
    return outcome


def _difference(samples: list[Sample], found: list[Any]) -> str:
    expected = [(i, e) for i, sample in enumerate(samples) for e in sample.expected]
    if len(expected) != len(found):
        return f"{len(found)} outputs instead of {len(expected)}"
    for (i, e), f in zip(expected, found):
        if e.shape != f.shape or e.dtype != f.dtype:
            return f"sample {i}: {f.dtype}{list(f.shape)} instead of {e.dtype}{list(e.shape)}"
        if not _error(f, e) <= BOUND:
            return f"sample {i}: differs by {_error(f, e):.3g}: {f.ravel()[:5]} instead of {e.ravel()[:5]}"
    return ""


# ---- running many: one process an operator, so that one that dies or hangs costs itself alone


def _child(name: str, op: Any, pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    if not os.environ.get("CONFORMANCE_STDERR"):
        os.dup2(devnull, 2)
    pipe.send(run_operator(name, op))
    pipe.close()
    os._exit(0)


def outcomes_of(chosen: dict[str, Any]) -> Iterator[Outcome]:
    """One operator after the other."""
    import tvm  # noqa: F401  (imported once, before the forks)
    from maas_rt.compiler import _pipeline, importers  # noqa: F401

    context = multiprocessing.get_context("fork")
    for name, op in chosen.items():
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(name, op, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            yield ours.recv() if ours.poll(TIMEOUT) else Outcome(name, "crash", "timeout", seconds=TIMEOUT)
        except EOFError:
            process.join()
            yield Outcome(name, "crash", f"the process died (exit code {process.exitcode})")
        finally:
            process.kill()
            process.join()


def counted(outcomes: list[Outcome]) -> dict[str, Any]:
    """How many of each kind, and the share of what torch.export takes and is not random."""
    counts: dict[str, Any] = {kind: sum(o.result == kind for o in outcomes) for kind in KINDS}
    total = sum(counts[kind] for kind in KINDS[:4])
    return {**counts, "operators_run": len(outcomes), "share": round(counts["pass"] / max(total, 1), 4)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance torch_opinfo", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--match", default="", help="only operators with one of these names (add,mul)")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th operator, beginning with the i-th")
    parser.add_argument("--fresh", action="store_true", help="do not use what a run of the same sources left")
    parser.add_argument(
        "--retry", action="store_true", help="only operators that did not pass when last run; counts all"
    )
    parser.add_argument("--update", action="store_true", help="write results/torch_opinfo.json")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each operator that does not pass")
    options = parser.parse_args(arguments)
    last: dict[str, dict[str, Any]] = json.loads(LAST.read_text()) if LAST.exists() else {}
    chosen = _chosen(operators(), options, last)
    cache = ROOT / "build" / "conformance" / f"torch-opinfo-{source_hash('torch_opinfo')}.jsonl"
    cache.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, Outcome] = {}
    if cache.exists() and not options.fresh:
        known = (Outcome(**json.loads(line)) for line in cache.read_text().splitlines())
        done = {o.name: o for o in known if o.name in chosen and o.result != "crash"}
    with cache.open("a") as log:
        for outcome in outcomes_of({name: op for name, op in chosen.items() if name not in done}):
            done[outcome.name] = outcome
            log.write(json.dumps(asdict(outcome)) + "\n")
            log.flush()
            if outcome.result in ("wrong", "crash") or (options.verbose and outcome.result != "pass"):
                print(f"{outcome.result:8} {outcome.name}: {outcome.message}", flush=True)
    last |= {name: asdict(outcome) for name, outcome in done.items()}
    LAST.write_text(json.dumps(last, indent=0, sort_keys=True))
    shown = last if options.retry and not options.match and options.shard == "1/1" else chosen
    return _judge([done[name] if name in done else Outcome(**last[name]) for name in shown], options)


def _chosen(known: dict[str, Any], options: Any, last: dict[str, dict[str, Any]]) -> dict[str, Any]:
    part, parts = (int(p) for p in options.shard.split("/"))
    words = [w for w in options.match.split(",") if w]
    wanted: Callable[[str], bool] = lambda name: not words or any(w in (name, name.split(".")[-1]) for w in words)  # noqa: E731
    settled = ("pass", "not_exported", "random") if options.retry else ()
    return {
        name: op
        for i, (name, op) in enumerate(known.items())
        if i % parts == part - 1 and wanted(name) and last.get(name, {}).get("result") not in settled
    }


def _judge(outcomes: list[Outcome], options: Any) -> int:
    counts = counted(outcomes)
    print("torch OpInfo:", ", ".join(f"{value} {key}" for key, value in counts.items()))
    if options.update:
        import torch

        listed = {o.name: f"{o.result}: {o.message}".rstrip(": ") for o in outcomes if o.result != "pass"}
        payload = {"counts": counts, "not_passing": listed, "torch": torch.__version__.split("+")[0]}
        if options.retry:
            payload["note"] = (
                "each operator's latest outcome: those that had passed were not run again with the latest sources"
            )
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(payload, indent=1, sort_keys=True) + "\n")
    return 1 if counts["wrong"] or counts["crash"] or (not options.retry and counts["share"] < 0.8) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

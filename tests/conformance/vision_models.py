"""What the torchvision and timm suites share: models with random weights compile and agree with eager torch.

    python -m tests.conformance torchvision [--match resnet,vit] [--shard 1/4] [--retry] [--update] [-v]    results/torchvision.json
    python -m tests.conformance timm ...                                                                    results/timm.json

Each model is exported and compiled with a fixed batch, run, and compared; then once more with a dynamic batch, at sizes that it was not
traced at. Outcomes: pass; refused (by name); wrong (an output differs by more than 1e-4 of its scale, whole numbers at all); crash (any
other exception, a signal, the time limit); not_exported (torch.export itself refuses, or the model's batch is no dimension; not counted).

Random weights alone would test little: layer scales of 1e-6 silence whole blocks, zero-initialised branches and heads are constant. So
each parameter whose elements are all equal is drawn anew, and batch norms take their statistics from a batch. An output that is not
finite, or the same for two inputs, fails as a crash. Random weights also make some models so sensitive that torch's own float32 result is
further than the bound from its float64 one: within ten times of that distance is rounding, and passes. What was run is cached under build/conformance/ by a hash of the sources.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.compiler._imported_oracle import relative_error
from tests.conformance.onnx_backend import ROOT, source_hash

KINDS = ("pass", "refused", "wrong", "crash", "not_exported")
MODES = ("fixed", "dynamic")
BOUND = 1e-4
TIMEOUT = 900.0  # seconds for one model and one mode
NEARBY, NEIGHBOURS = 3e-7, 8  # how far apart, relatively, and how many
TRACED, OTHERS = 2, (1, 3)  # batches


@dataclass(frozen=True)
class Case:
    """`build` makes the module; `inputs` draws the arguments of its forward for a batch; `batched`: the batch is dimension 0 of the first.

    Detections are compared as a set where their order differs: neighbours whose scores are one rounding apart change places. A box that
    is kept or suppressed decides about others, by thresholds: the set has to be float32's, or exactly what the model in float64 gives for
    the arguments or for arguments that differ from them by NEARBY, a few of float32's roundings.
    """

    name: str
    build: Callable[[], Any]
    inputs: Callable[[int], tuple[Any, ...]]
    batched: bool = True
    detections: bool = (
        False  # outputs are boxes, scores and labels in any order, image by image: rows in the order of their scores
    )


@dataclass
class Outcome:
    name: str
    fixed: str = ""
    dynamic: str = ""
    messages: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def passed(self) -> bool:
        return self.fixed == "pass" and self.dynamic in ("pass", "not_exported")


def image(size: int, channels: int = 3) -> Callable[[int], tuple[Any, ...]]:
    """Batches of images that differ in more than their noise: in colour, and in coarse patches."""
    import torch

    def draw(batch: int) -> tuple[Any, ...]:
        coarse = torch.nn.functional.interpolate(torch.randn(batch, channels, 4, 4), (size, size))
        return (torch.randn(batch, channels, 1, 1) + coarse + 0.5 * torch.randn(batch, channels, size, size),)

    return draw


# ---- weights


def awaken(module: Any, arguments: tuple[Any, ...]) -> Any:
    """Nothing silent: constant parameters drawn anew, batch norms with statistics of the arguments. In place; in eval mode."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if (
                parameter.is_floating_point()
                and parameter.numel() > 1
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                if parameter.flatten()[0] == 0:
                    parameter.normal_(0, 0.05)
                else:
                    parameter.uniform_(0.3, 1.0)
        module.eval()
        norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        if norms:
            module(*arguments)
    return module.eval()


# ---- one model


def run_case(case: Case, mode: str) -> tuple[str, str]:
    """(outcome, message)"""
    import torch

    import maas_rt

    torch.manual_seed(0)
    np.random.seed(0)
    try:
        module = awaken(case.build(), case.inputs(4))
        expected = {}
        for batch in (TRACED, *OTHERS):
            arguments = case.inputs(batch)
            with torch.inference_mode():
                expected[batch] = arguments, _leaves(module(*arguments))
        _alive(module, case, expected[TRACED])
        return _compare(case, mode, module, expected)
    except (maas_rt.UnsupportedOperatorError, maas_rt.ImportModelError) as error:
        text = str(error)
        return ("not_exported" if text.startswith("torch.export cannot") else "refused"), text
    except maas_rt.InvalidArgumentError as error:  # torch.export finds that the model fixes the batch
        return ("not_exported" if "dynamic dimensions that were asked for" in str(error) else "crash"), str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "crash", f"{type(error).__name__}: {str(error)[:400]} ({Path(where.filename).name}:{where.lineno})"


def _compare(case: Case, mode: str, module: Any, expected: Mapping[int, tuple[Any, list[Any]]]) -> tuple[str, str]:
    import torch
    from maas_rt.compiler import compile

    import maas_rt

    first = next(iter(_names(module)))
    dynamic = {first: {0: (1, 8)}} if mode == "dynamic" else None
    artifact = compile(module, expected[TRACED][0], dynamic=dynamic, verify=False)
    model = maas_rt.load(artifact.to_bytes(), threads=1)
    for batch in (TRACED, *OTHERS) if dynamic else (TRACED,):
        arguments, wanted = expected[batch]
        given = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(arguments)]
        results = model.run({info.name: array for info, array in zip(model.inputs, given, strict=True)})
        found = [results[info.name] for info in model.outputs]
        if len(found) != len(wanted):
            return "wrong", f"{len(found)} outputs instead of {len(wanted)}"
        checked: set[int] = set()
        for i, (f, w) in enumerate(zip(found, wanted)):
            if f.shape != w.shape or f.dtype != w.dtype:
                return (
                    "wrong",
                    f"output {i}, batch {batch}: {f.dtype}{list(f.shape)} instead of {w.dtype}{list(w.shape)}",
                )
            if case.detections and i % 3 == 0:
                image = slice(i, i + 3)
                if _are_detections(found[image], [other[image] for other in _exact_nearby(module, arguments, wanted)]):
                    checked.update((i, i + 1, i + 2))
            if i in checked:
                continue
            if not relative_error(f, w) <= BOUND and not _is_rounding(module, arguments, i, f, w):
                return "wrong", f"output {i}, batch {batch}: differs by {relative_error(f, w):.3g} of its scale"
    return "pass", ""


def _are_detections(found: list[Any], references: list[list[Any]]) -> bool:
    """Whether detections are those of a reference but for as many rows as the references differ by among themselves: what falls on the other
    side of a threshold, or of the cut behind the best, for images that are a rounding away."""
    exact = references[1]
    spread = max(_rows_apart(other, exact) for other in references)
    return min(_rows_apart(found, other) for other in references) <= spread


def _rows_apart(found: list[Any], wanted: list[Any]) -> int:
    """How many rows of boxes, scores and labels have no row of their own on the other side, within the bound."""
    by_kind = sorted(range(3), key=lambda i: (-wanted[i].ndim, wanted[i].dtype.kind))  # boxes, scores, labels
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = (
        [side[i] for i in by_kind] for side in (found, wanted)
    )
    scale = max(float(np.abs(other_boxes).max(initial=0)), 1.0)
    free = np.ones(len(other_labels), bool)
    for box, score, label in zip(boxes, scores, labels):
        near = free & (other_labels == label) & (np.abs(other_scores - score) <= BOUND)
        distance = np.where(near, np.abs(other_boxes - box).max(-1), np.inf)
        if len(distance) and distance.min() <= BOUND * scale:
            free[distance.argmin()] = False
    return max(len(labels), len(other_labels)) - int((~free).sum())


def _exact(module: Any, arguments: tuple[Any, ...]) -> list[Any]:
    """The model's outputs in float64."""
    import torch

    wide = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, arguments
    )
    with torch.inference_mode():
        return _leaves(copy.deepcopy(module).double()(*wide))


def _exact_nearby(module: Any, arguments: tuple[Any, ...], wanted: list[Any]) -> Iterator[list[Any]]:
    """What detections may be; see Case."""
    yield wanted
    yield from _exact_around(module, arguments)


def _exact_around(module: Any, arguments: tuple[Any, ...]) -> Iterator[list[Any]]:
    """The model's outputs in float64, and those of NEIGHBOURS inputs close by."""
    import torch

    yield _exact(module, arguments)
    generator = torch.Generator().manual_seed(0)
    for _ in range(NEIGHBOURS):
        yield _exact(
            module,
            torch.utils._pytree.tree_map_only(
                torch.Tensor,
                lambda t: t * (1 + NEARBY * torch.randn(t.shape, generator=generator)) if t.is_floating_point() else t,
                arguments,
            ),
        )


def _is_rounding(module: Any, arguments: tuple[Any, ...], output: int, found: Any, wanted: Any) -> bool:
    """Whether ours is as far from torch's float64 result, to a factor of ten, as torch's float32 one is, or as that moves with inputs that
    are a rounding away: some of these models with random weights make much of the last bits of an image."""
    exact, *nearby = (each[output] for each in _exact_around(module, arguments))
    moved = max(relative_error(each, exact) for each in (wanted, *nearby))
    return found.dtype.kind == "f" and relative_error(found, exact) <= 10 * moved


def _names(module: Any) -> list[str]:
    import inspect

    return list(inspect.signature(module.forward).parameters)


def _leaves(result: Any) -> list[Any]:
    import torch

    return [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _alive(module: Any, case: Case, seen: tuple[Any, list[Any]]) -> None:
    """The outputs are finite, and others for another input."""
    import torch

    with torch.inference_mode():
        others = _leaves(module(*case.inputs(TRACED)))
    if not seen[1] or not all(np.isfinite(leaf).all() for leaf in seen[1]):
        raise AssertionError("the model's own output is not finite")
    if all(a.shape == b.shape and relative_error(a, b) < 100 * BOUND for a, b in zip(seen[1], others)):
        raise AssertionError("the model's own output hardly depends on its input")


# ---- many models: one process for each


def _child(case: Case, modes: list[str], pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    if not os.environ.get("CONFORMANCE_STDERR"):
        os.dup2(devnull, 2)
    warnings.simplefilter("ignore")
    for mode in modes:
        start = time.monotonic()
        if mode == "dynamic" and not case.batched:
            pipe.send(("not_exported", "a batch is a list of images", 0.0))
        else:
            pipe.send((*run_case(case, mode), round(time.monotonic() - start, 1)))
    pipe.close()
    os._exit(0)


def outcomes_of(cases: list[Case], end: float) -> Iterator[Outcome]:
    import tvm  # noqa: F401  (imported once, before the forks)
    from maas_rt.compiler import _pipeline, importers  # noqa: F401

    for case in cases:
        if time.monotonic() < end:
            yield _outcome(case)


def _outcome(case: Case) -> Outcome:
    """Both modes in one process; a second one for what is left where the first one dies."""
    outcome = Outcome(case.name)
    context = multiprocessing.get_context("fork")
    left = list(MODES)
    while left:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(case, left, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            while left:
                result, message, seconds = ours.recv() if ours.poll(TIMEOUT) else ("crash", "timeout", TIMEOUT)
                _note(outcome, left.pop(0), result, message, seconds)
                if message == "timeout":
                    break
        except EOFError:
            process.join()
            _note(outcome, left.pop(0), "crash", f"the process died (exit code {process.exitcode})", 0.0)
        finally:
            process.kill()
            process.join()
    return outcome


def _note(outcome: Outcome, mode: str, result: str, message: str, seconds: float) -> None:
    setattr(outcome, mode, result)
    outcome.seconds[mode] = seconds
    if message:
        outcome.messages[mode] = message


# ---- a suite


def main(suite: str, cases: list[Case], versions: Mapping[str, str], arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m tests.conformance {suite}")
    parser.add_argument("--match", default="", help="only models whose name contains one of these (resnet,vit)")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th model, beginning with the i-th")
    parser.add_argument("--fresh", action="store_true", help="do not use what a run of the same sources left")
    parser.add_argument("--retry", action="store_true", help="only models that did not pass when last run; counts all")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no model after so long; what is left is said")
    parser.add_argument("--update", action="store_true", help=f"write results/{suite}.json")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every model")
    options = parser.parse_args(arguments)
    folder = ROOT / "build" / "conformance"
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{source_hash(suite)} {dict(versions)} {Path(__file__).read_text()}".encode()).hexdigest()[
        :16
    ]
    cache, latest = folder / f"{suite}-{key}.jsonl", folder / f"last-{suite}.jsonl"
    known = {} if options.fresh else _read(cache)
    last = _read(latest) if options.retry else {}
    chosen = _chosen(cases, options)
    done = {
        c.name: known[c.name]
        for c in chosen
        if c.name in known and "crash" not in (known[c.name].fixed, known[c.name].dynamic)
    }
    done = {**{c.name: last[c.name] for c in chosen if c.name in last and last[c.name].passed()}, **done}
    with cache.open("a") as log, latest.open("a") as again:
        end = time.monotonic() + options.minutes * 60
        for outcome in outcomes_of([case for case in chosen if case.name not in done], end):
            done[outcome.name] = outcome
            for file in (log, again):
                file.write(json.dumps(asdict(outcome)) + "\n")
                file.flush()
            if options.verbose or not outcome.passed():
                said = "; ".join(dict.fromkeys(outcome.messages.values()))[:600]
                times = "/".join(f"{s:.0f}" for s in outcome.seconds.values())
                print(
                    f"{outcome.name:44} fixed: {outcome.fixed:13} dynamic: {outcome.dynamic:13} {times} s  {said}",
                    flush=True,
                )
    done = {**last, **done}
    left = [case.name for case in chosen if case.name not in done]
    return _judge(suite, [done[case.name] for case in chosen if case.name in done], left, versions, options)


def _read(path: Path) -> dict[str, Outcome]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {o.name: o for o in (Outcome(**json.loads(line)) for line in lines)}


def _chosen(cases: list[Case], options: Any) -> list[Case]:
    part, parts = (int(p) for p in options.shard.split("/"))
    words = [word for word in options.match.split(",") if word]
    return [
        case
        for i, case in enumerate(cases)
        if i % parts == part - 1 and (not words or any(word in case.name for word in words))
    ]


def counted(outcomes: list[Outcome], mode: str) -> dict[str, int]:
    return {kind: sum(getattr(o, mode) == kind for o in outcomes) for kind in KINDS}


def _judge(suite: str, outcomes: list[Outcome], left: list[str], versions: Mapping[str, str], options: Any) -> int:
    counts = {mode: counted(outcomes, mode) for mode in MODES}
    for mode in MODES:
        shown = ", ".join(f"{value} {kind}" for kind, value in counts[mode].items() if value)
        print(f"{suite}, {mode} batch: {len(outcomes)} models: {shown}")
    if left:
        print(f"{suite}: {len(left)} models were not run: {', '.join(left[:8])}{', ...' * (len(left) > 8)}")
    if options.update and not options.match and options.shard == "1/1":
        listed = {
            o.name: {
                mode: f"{getattr(o, mode)}: {o.messages.get(mode, '')[:300]}".rstrip(": ")
                for mode in MODES
                if getattr(o, mode) != "pass"
            }
            for o in outcomes
            if (o.fixed, o.dynamic) != ("pass", "pass")
        }
        payload: dict[str, Any] = {
            "counts": counts,
            "models": [o.name for o in outcomes],
            "not_passing": listed,
            "not_run": left,
            "versions": dict(versions),
        }
        if options.retry:
            payload["note"] = (
                "each model's latest outcome: those that had passed were not run again with the latest sources"
            )
        path = Path(__file__).resolve().parent / "results" / f"{suite}.json"
        path.write_text(json.dumps(payload, indent=1, sort_keys=True) + "\n")
    return 1 if any(counts[mode][kind] for mode in MODES for kind in ("wrong", "crash")) else 0

"""The whole way from a model to a file, as one flat, ordered list of stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import tvm
from tvm import relax

from ._boundary import boundary
from ._calibrate import quantized, recipe_of, verify_quantized
from ._configs import CompileOptions, Progress, TargetSpec
from ._deep import deep
from ._depth import half_tolerances
from ._memory import return_memory, settled
from .artifact import Artifact, make_manifest
from .codegen import GeneratedFunctions, build_code, collect_functions, runs_on_this_cpu, schedule_functions
from .importers import ImportedModel
from .passes import Pass, as_reshapes, lowering_passes
from .plan import LinearPlan, build_plan
from .tune import Tuning, tune
from .verify import verify

__all__ = ["compile_imported", "run_stages"]

_SOURCE_RUNS = "verify"  # on the caller's own thread, where the source framework finds what the caller set for it


@dataclass
class _Work:
    """What the stages hand on to each other."""

    model: ImportedModel
    options: CompileOptions
    targets: list[TargetSpec]
    mod: tvm.IRModule
    generated: GeneratedFunctions | None = None
    code: dict[str, bytes] = field(default_factory=dict)
    linear: LinearPlan | None = None
    artifact: Artifact | None = None
    tuning: Tuning | None = None
    last: bool = False  # nobody compiles the model again
    told: Progress = lambda what, fraction: None  # of the stage that runs; of a long one, from within


def compile_imported(
    model: ImportedModel,
    options: CompileOptions,
    *,
    examples: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    last: bool = False,
) -> Artifact:
    """Everything after import. Raises CompileError and its subclasses; see `maas_rt.compiler.compile`. With `last` the model gives its
    weights away: nothing is compiled from it again."""
    work = _Work(model, options, options.resolved_targets(), model.mod, last=last)
    stages: list[tuple[str, float, Callable[[_Work], None]]] = [  # name, rough share of the time, what it does
        *([("quantize", 40, _quantize)] if options.recipe is not None and options.recipe.quantize is not None else []),
        ("lower", 30 if options.tune is None else 600, _lower),
        ("collect generated functions", 1, _collect),
        ("schedule", 15, _schedule),
        ("build code", 24, _build),
        ("pack weights and plan", 10, _plan),
        ("write manifest", 1, _manifest),
    ]
    if options.verify is not None:
        stages.append((_SOURCE_RUNS, 19, lambda work: _verify(work, examples)))
    return run_stages(work, stages, progress)


def run_stages(
    work: _Work, stages: Sequence[tuple[str, float, Callable[[_Work], None]]], progress: Progress | None
) -> Artifact:
    """Run the stages in order and tell `progress` of each; the artifact of the last."""
    total = sum(share for _, share, _ in stages)
    done = 0.0
    for name, share, stage in stages:
        if progress is not None:
            progress(name, done / total)
            work.told = _within(progress, done / total, share / total)
        with boundary(name):
            if name == _SOURCE_RUNS:
                stage(work)
            else:
                deep(partial(stage, work))
        done += share
    if progress is not None:
        progress("done", 1.0)
    assert work.artifact is not None
    return work.artifact


def _within(progress: Progress, begin: float, share: float) -> Progress:
    return lambda what, fraction: progress(what, begin + share * fraction)


def _quantize(work: _Work) -> None:
    """Ranges from a build in float, which is held to the source on the calibration inputs; then the module with them."""
    assert work.options.recipe is not None and work.options.recipe.quantize is not None
    host = replace(work.options, verify=None, targets=("native",), recipe=None, tune=None)
    work.mod = quantized(work.model, work.options, lambda model: compile_imported(model, host))


def _lower(work: _Work) -> None:
    best = work.targets[0].to_tvm()
    check = _checker()
    mod = check("imported", work.mod)
    with settled(), best, tvm.transform.PassContext(opt_level=3):
        for name, stage in lowering_passes(best, _tuning_pass(work)):
            with boundary(f"lower: {name}"):
                mod = check(name, stage(mod))
        mod = as_reshapes(mod)
        mod = relax.transform.DeadCodeElimination(["main"])(mod)
    work.mod = mod


def _tuning_pass(work: _Work) -> Pass | None:
    options = work.options.tune
    if options is None:
        return None

    here = replace(work.options, targets=("native",)).resolved_targets()[0]  # what is timed runs on this CPU

    def stage(mod: tvm.IRModule) -> tvm.IRModule:
        tuned, work.tuning = tune(mod, work.model.symbols, options, here, work.told)
        return tuned

    return stage


def _checker() -> Callable[[str, tvm.IRModule], tvm.IRModule]:
    """With MAAS_RT_CHECK=1 the module is held to the invariants of spec/ after each stage."""
    if os.environ.get("MAAS_RT_CHECK") != "1":
        return lambda stage, mod: mod
    from .spec import check_module

    def check(stage: str, mod: tvm.IRModule) -> tvm.IRModule:
        check_module(mod, stage)
        return mod

    return check


def _collect(work: _Work) -> None:
    work.generated = collect_functions(work.mod)


def _schedule(work: _Work) -> None:
    assert work.generated is not None
    work.generated = schedule_functions(work.generated)


def _build(work: _Work) -> None:
    assert work.generated is not None
    if work.generated.functions:
        work.code = {spec.name: build_code(work.generated.functions, spec) for spec in work.targets}


def _plan(work: _Work) -> None:
    assert work.generated is not None
    name = work.options.name or str(work.model.provenance.get("name") or "model")
    work.linear = build_plan(work.model, work.mod, work.generated.symbols, name)


def _manifest(work: _Work) -> None:
    assert work.linear is not None
    manifest = make_manifest(work.model, work.linear.plan, list(work.code))
    work.artifact = Artifact(work.linear, work.code, manifest)
    if work.options.recipe is not None and work.options.recipe.quantize is not None:
        work.artifact = work.artifact.with_manifest(recipe=recipe_of(work.options.recipe))
    if work.tuning is not None:
        work.artifact = work.artifact.with_manifest(tuning=work.tuning.to_manifest())


def _verify(work: _Work, examples: Mapping[str, Any] | None) -> None:
    """Where no target runs on this CPU, a build for this CPU is verified in the artifact's place, and the manifest says so."""
    assert work.artifact is not None and work.options.verify is not None
    runs_here = not work.code or any(runs_on_this_cpu(name) for name in work.code)
    host = replace(work.options, verify=None, targets=("native",), tune=None)
    artifact = work.artifact if runs_here else compile_imported(work.model, host)

    work.mod, work.generated = tvm.IRModule(), None
    if work.last:
        work.model.drop_weights()
        if work.artifact.linear.weights.file is not None:
            return_memory()
    if work.options.recipe is not None and work.options.recipe.quantize is not None:
        found = verify_quantized(artifact, work.model, work.options, examples)
        work.artifact = work.artifact.with_manifest(
            verified={**found, "status": "passed" if runs_here else "host-build"}
        )
        return

    def compile_prefix(model: ImportedModel) -> Artifact:
        return compile_imported(model, host)

    options = half_tolerances(work.options.verify, work.model.mod)
    report = verify(artifact, work.model, options, compile_prefix, examples)
    status = "passed" if runs_here else "host-build"
    verified = work.artifact.with_manifest(verified={**report.to_manifest(work.model), "status": status})
    work.artifact = replace(verified, measured_error=report.max_relative_error)

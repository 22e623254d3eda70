"""The whole way from a model to a file, as one flat, ordered list of stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

import tvm
from tvm import relax

from ._boundary import boundary
from ._configs import CompileOptions, Progress, TargetSpec
from ._deep import deep
from ._memory import gc_frozen, return_memory
from .artifact import Artifact, make_manifest
from .codegen import (
    GeneratedFunctions,
    LinkableCode,
    build_code,
    build_object,
    collect_functions,
    runs_on_this_cpu,
    schedule_functions,
)
from .compression import Compressed, compressed, verify_compressed
from .importers import ImportedModel
from .passes import as_reshapes, lowering_passes
from .plan import LinearPlan, build_plan
from .tune import Tuning, tune
from .verify import compare_with_source, half_tolerances, verify, verify_emulated

__all__ = ["compile_imported"]

P = ParamSpec("P")
T = TypeVar("T")

_COMPRESS = "compress"
_SOURCE_RUNS = "verify"  # on the caller's own thread, where the source framework finds what the caller set for it


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
    stages = _Stages(_shares(options), progress)
    found = stages.run(_COMPRESS, _compress, model, options) if _compresses(options) else None
    mod = found.mod if found is not None else model.mod
    artifact = _build(model, mod, options, stages)
    if found is not None:
        assert options.recipe is not None
        artifact = artifact.with_manifest(recipe=found.to_manifest(options.recipe))
    if options.verify is not None:
        here = artifact if _runs_here(artifact) else _build_here(model, mod, options)
        del mod  # with `last` its weights are let go
        kept = found.kept if found is not None else None
        del found
        artifact = stages.run(_SOURCE_RUNS, _verify, artifact, here, model, options, examples, kept, last)
    stages.done()
    return artifact


def _build(
    model: ImportedModel,
    mod: tvm.IRModule,
    options: CompileOptions,
    stages: _Stages,
    chosen_for: Sequence[TargetSpec] | None = None,
) -> Artifact:
    """The artifact of `mod`, which is the model's module or a quantized form of it; not verified. Estimates choose kernels for the targets
    `chosen_for` (None: those of the options)."""
    targets = options.resolved_targets()
    machines = sorted({spec.machine for spec in chosen_for or targets})
    mod, tuning = stages.run("lower", _lower, mod, model, options, targets[0], machines, stages.within)
    generated = stages.run("collect generated functions", _collect, mod)
    generated = stages.run("schedule", _schedule, generated)
    code, objects = stages.run("build code", _compile, generated, targets, options)
    linear = stages.run("pack weights and plan", _plan, model, mod, generated, options)
    artifact = stages.run("write manifest", _manifest, model, linear, code, options, tuning)
    return replace(artifact, objects=objects)


def _build_here(model: ImportedModel, mod: tvm.IRModule, options: CompileOptions) -> Artifact:
    """A build for this CPU that is only run and thrown away: to calibrate, or to verify. It has the kernels that the file has."""
    host = replace(options, verify=None, targets=("native",), recipe=None, tune=None, verify_with=None, code="shared")
    return _build(model, mod, host, _Stages(_shares(host), None), options.resolved_targets())


def _shares(options: CompileOptions) -> dict[str, float]:
    """The stages, and about what share of the time each takes."""
    return {
        **({_COMPRESS: 40} if _compresses(options) else {}),
        "lower": 30 if options.tune is None else 600,
        "collect generated functions": 1,
        "schedule": 15,
        "build code": 24,
        "pack weights and plan": 10,
        "write manifest": 1,
        **({_SOURCE_RUNS: 19} if options.verify is not None else {}),
    }


class _Stages:
    """Runs stages, each inside the boundary that names it, and tells `progress` of them."""

    def __init__(self, shares: Mapping[str, float], progress: Progress | None) -> None:
        self._shares = shares
        self._progress = progress
        self._total = sum(shares.values())
        self._past = 0.0  # shares of the stages that are over
        self._current = 0.0  # of the one that runs

    def run(self, name: str, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `stage` returns."""
        self._current = self._shares[name]
        self.within(name, 0.0)
        with boundary(name):
            bound = partial(stage, *args, **kwargs)
            result = bound() if name == _SOURCE_RUNS else deep(bound)
        self._past += self._current
        return result

    def within(self, what: str, fraction: float) -> None:
        """Tell of what a long stage is at, from within it."""
        if self._progress is not None:
            self._progress(what, (self._past + fraction * self._current) / self._total)

    def done(self) -> None:
        if self._progress is not None:
            self._progress("done", 1.0)


def _compresses(options: CompileOptions) -> bool:
    return options.recipe is not None and options.recipe.changes


def _compress(model: ImportedModel, options: CompileOptions) -> Compressed:
    """The module as the recipe wants it; builds in float show what calibration needs of its inside."""
    return compressed(model, options, lambda probed: _build_here(probed, probed.mod, options))


def _lower(
    mod: tvm.IRModule,
    model: ImportedModel,
    options: CompileOptions,
    target: TargetSpec,
    machines: Sequence[str],
    progress: Progress,
) -> tuple[tvm.IRModule, Tuning | None]:
    """The module as calls of kernels and generated functions, and what was timed on the way."""
    tuning: Tuning | None = None

    def tuned(mod: tvm.IRModule) -> tvm.IRModule:
        nonlocal tuning
        assert options.tune is not None
        here = replace(options, targets=("native",)).resolved_targets()[0]  # what is timed runs on this CPU
        mod, tuning = tune(mod, model.symbols, options.tune, here, progress)
        return mod

    check = _checker()
    mod = check("imported", mod)
    best = target.to_tvm()
    with gc_frozen(), best, tvm.transform.PassContext(opt_level=3):
        for name, stage in lowering_passes(best, tuned if options.tune is not None else None, machines):
            with boundary(f"lower: {name}"):
                mod = check(name, stage(mod))
        mod = as_reshapes(mod)
        mod = relax.transform.DeadCodeElimination(["main"])(mod)
    return mod, tuning


def _checker() -> Callable[[str, tvm.IRModule], tvm.IRModule]:
    """With MAAS_RT_CHECK=1 the module is held to the invariants of spec/ after each stage."""
    if os.environ.get("MAAS_RT_CHECK") != "1":
        return lambda stage, mod: mod
    from .spec import check_module

    def check(stage: str, mod: tvm.IRModule) -> tvm.IRModule:
        check_module(mod, stage)
        return mod

    return check


def _collect(mod: tvm.IRModule) -> GeneratedFunctions:
    return collect_functions(mod)


def _schedule(generated: GeneratedFunctions) -> GeneratedFunctions:
    return schedule_functions(generated)


def _compile(
    generated: GeneratedFunctions, targets: Sequence[TargetSpec], options: CompileOptions
) -> tuple[dict[str, bytes], dict[str, LinkableCode]]:
    """Code sections by target, and object files where they are asked for; none where everything is kernels."""
    functions = generated.functions
    if not functions:
        return {}, {}
    if options.code != "object":
        return {spec.name: build_code(functions, spec) for spec in targets}, {}
    built = {spec.name: build_object(functions, spec, options.name or "model") for spec in targets}
    return {name: code for name, (code, _) in built.items()}, {name: linkable for name, (_, linkable) in built.items()}


def _plan(
    model: ImportedModel, mod: tvm.IRModule, generated: GeneratedFunctions, options: CompileOptions
) -> LinearPlan:
    name = options.name or str(model.provenance.get("name") or "model")
    return build_plan(model, mod, generated.symbols, name)


def _manifest(
    model: ImportedModel, linear: LinearPlan, code: dict[str, bytes], options: CompileOptions, tuning: Tuning | None
) -> Artifact:
    artifact = Artifact(linear, code, make_manifest(model, linear.plan, list(code)))
    if tuning is not None:
        artifact = artifact.with_manifest(tuning=tuning.to_manifest())
    return artifact


def _runs_here(artifact: Artifact) -> bool:
    return not artifact.code or any(runs_on_this_cpu(name) for name in artifact.code)


def _verify(
    artifact: Artifact,
    here: Artifact,
    model: ImportedModel,
    options: CompileOptions,
    examples: Mapping[str, Any] | None,
    kept: Sequence[dict[str, Any]] | None,
    last: bool,
) -> Artifact:
    """The artifact with what was found in its manifest. Where no target runs on this CPU, a build for it, `here`, is verified in the artifact's
    place, and the manifest says so; with `options.verify_with` the artifact runs under an emulator, too. `kept`: inputs for what was quantized
    here, which is held to the recipe's tolerance; None: to that of any model."""
    assert options.verify is not None
    status = "passed" if here is artifact else "host-build" if options.verify_with is None else "emulated"
    tolerances = half_tolerances(options.verify, model.mod)  # before the module goes
    if last:
        model.drop_weights()
        if artifact.linear.weights.file is not None:
            return_memory()
    if kept is not None:
        found, error = verify_compressed(here.loaded(), model, options, kept, examples), None
    else:
        report = verify(here, model, tolerances, lambda part: _build_here(part, part.mod, options), examples)
        found, error = report.to_manifest(model), report.max_relative_error
    emulated = options.emulated_targets() if options.verify_with is not None else []

    def check(program: Any) -> dict[str, Any]:
        if kept is not None:
            return verify_compressed(program, model, options, kept, examples)
        return compare_with_source(program, model, tolerances, examples).to_manifest(model)

    if emulated:
        found["emulated"] = verify_emulated(artifact, emulated, check)
    verified = artifact.with_manifest(verified={**found, "status": status})
    return replace(verified, measured_error=error)

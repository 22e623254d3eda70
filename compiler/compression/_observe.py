"""What runs of the model in float show of its inside: values of the calibration samples, from a build that gives them as further results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import VerificationError

from .._configs import VerifyOptions
from .._deep import heed
from ..artifact import Artifact
from ..importers import ImportedModel
from ..verify import Reference, compare, run_compiled, scales_of
from ._samples import Samples
from ._spool import Spool

__all__ = ["CompileFloat", "Observer", "Run"]

Array = npt.NDArray[Any]
CompileFloat = Callable[[ImportedModel], Artifact]

# What is to be seen of a value: expressions of it. `Take` gets the number of the sample and, value by value, what they gave.
Probe = Callable[[relax.Expr], Sequence[relax.Expr]]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]  # outputs by name for inputs by name
Take = Callable[[int, list[list[Array]]], None]


class Observer:
    """Builds and runs of one model in float. The first build is held to the source, on the samples that are kept of its runs."""

    def __init__(
        self, model: ImportedModel, samples: Samples, compile_float: CompileFloat, verify: VerifyOptions | None
    ) -> None:
        self.samples = samples
        self.count = 0  # samples of the last time
        self._model = model
        self._compile = compile_float
        self._verify = verify
        self._checked = verify is None
        self._program: Any = None

    def observe(self, mod: tvm.IRModule, values: Sequence[relax.Expr], probe: Probe, take: Take) -> None:
        """Every sample once. `mod` is the model's module or what was made of it, `values` are of its main function, not of branches.

        Raises:
            InvalidArgumentError: samples that are not the model's. VerificationError: the build in float differs from the source.
        """
        wide, counts = _probed(mod, values, probe)
        names = self.unused("observed", sum(counts))
        artifact = self._compile(replace(self._model, mod=wide, output_names=[*self._model.output_names, *names]))
        program, options = artifact.loaded(), self._verify or VerifyOptions()
        self._program = program
        self.count = 0
        for sample in self.samples:
            heed()
            results = run_compiled(program, sample, options)
            found = iter([results[name] for name in names])
            take(self.count, [[next(found) for _ in range(count)] for count in counts])
            self.count += 1
        if not self._checked:
            self._check(program, options)
            self._checked = True

    @property
    def inputs(self) -> int:
        """How many the model has."""
        return len(self._model.input_names)

    def unused(self, stem: str, count: int) -> list[str]:
        """That many names that no input and no output of the model has."""
        taken = {*self._model.input_names, *self._model.output_names}
        while any(name.startswith(f"{stem}.") for name in taken):
            stem += "_"
        return [f"{stem}.{i}" for i in range(count)]

    def latest(self) -> Run:
        """Runs of the build that was observed last."""
        return self._runs(self._program)

    def built(self, mod: tvm.IRModule, more: Sequence[str]) -> Run:
        """Runs of what was made of the model's module. `more`: inputs that it has behind the model's."""
        names = [*self._model.input_names, *more]
        return self._runs(self._compile(replace(self._model, mod=mod, input_names=names)).loaded())

    def _runs(self, program: Any) -> Run:
        options, names = self._verify or VerifyOptions(), self._model.output_names

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            results = run_compiled(program, inputs, options)
            return {name: results[name] for name in names}

        return run

    def _check(self, program: Any, options: VerifyOptions) -> None:
        """The build in float is the source's equal, against the scale that outputs have over all samples that are kept: one of them may be
        near 0. What compression changes is measured against that."""
        reference = Reference(self._model.source, options.seconds)
        wanted = Spool()
        scales = scales_of(wanted.added(reference.run(inputs) for inputs in self.samples.kept))
        for inputs, outputs in zip(self.samples.kept, wanted):
            heed()
            results = run_compiled(program, inputs, options)
            for name, expected in outputs.items():
                difference = compare(name, results[name], np.asarray(expected), options, scales.get(name, 0.0))
                if difference.error > options.tolerance(str(np.asarray(expected).dtype)) or difference.detail:
                    raise VerificationError(
                        f"the compiled model differs from its source before it is compressed: output {name} by {difference.error:.3g} of "
                        "its scale on a calibration sample; nothing was written"
                    )


def _probed(mod: tvm.IRModule, values: Sequence[relax.Expr], probe: Probe) -> tuple[tvm.IRModule, list[int]]:
    """The module with further results, and how many there are of each value."""
    func = mod["main"]
    builder = relax.BlockBuilder()
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    tuples = {b.var: b.value for b in bindings if isinstance(b.value, relax.Tuple)}
    body = tuples.get(func.body.body, func.body.body)
    results, counts = list(body.fields), []

    def bind(value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return value
        args = [bind(arg) for arg in value.args]
        call = builder.normalize(tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span))
        var = relax.Var(f"observed{len(bindings)}", call.ty)
        bindings.append(relax.VarBinding(var, call))
        return var

    for value in values:
        found = [bind(each) for each in probe(value)]
        counts.append(len(found))
        results += found
    out = builder.normalize(relax.Tuple(results))
    last = relax.Var("gv", out.ty)
    bindings.append(relax.VarBinding(last, out))
    seq = relax.SeqExpr([relax.DataflowBlock(bindings)], last)
    relax.expr._update_type(seq, last.ty)
    made = relax.Function(func.params, seq, None, func.is_pure, func.attrs, func.span)
    changed = mod.clone()
    changed.update_func(mod.get_global_var("main"), made)
    return changed, counts

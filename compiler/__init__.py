"""maas_rt.compiler: turns a trained model into one file that the runtime loads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maas_rt._errors import CompileError, MissingExtraError

if TYPE_CHECKING:
    from ._budget import Budget
    from ._configs import Progress, Tune, Weights
    from ._recipes import Half, Int8, Int8Dynamic, Prune, Recipe, WeightOnly
    from .artifact import Artifact

__all__ = [
    "Artifact", "Budget", "Half", "Int8", "Int8Dynamic", "Prune", "Recipe", "Tune", "WeightOnly", "Weights", "compile", "compress",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Budget":
        from ._budget import Budget

        return Budget
    if name in ("Tune", "Weights"):
        from . import _configs

        return getattr(_configs, name)
    if name in ("Half", "Int8", "Int8Dynamic", "Prune", "Recipe", "WeightOnly"):
        from . import _recipes

        return getattr(_recipes, name)
    if name == "Artifact":  # behind the import of tvm, which takes a second
        from .artifact import Artifact

        return Artifact
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def compile(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    target: str | Sequence[str] = "native",
    dynamic: Any = None,
    recipe: Recipe | None = None,
    tune: Tune | None = None,
    verify: bool = True,
    verify_with: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
    weights: Weights | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    keep_intermediates: str | None = None,
    code: str = "shared",
) -> Artifact:
    """Compile `model` into an Artifact, checked against the framework that it came from.

    A complex input or output of a torch model is a real one in the artifact, with a last axis of 2: real part first, as
    torch.view_as_real gives it (complex64 is float32 [..., 2]).

    Args:
        model: an nn.Module, an ExportedProgram, an onnx.ModelProto, or the path of an .onnx file, a .pt2 or (with `factory`) a
            checkpoint: a file, the directory that training left (docs/checkpoints.md lists them), or a list of files.
        example_inputs: a sequence in the order of the inputs, a mapping by name, or the one tensor of a model with one input; an
            nn.Module is traced on them, and the artifact is verified on them beside drawn ones.
        target: "native", "x86-64-v3", "x86-64-v2", "x86-64", "aarch64", "aarch64-dotprod", "aarch64-i8mm"; several, as a sequence or with
            commas, go into one file. What is linked for another machine needs a linker for it (docs/aarch64.md).
        dynamic: dimensions that vary, as {"x": {0: (1, 32)}} or ["x:0=1..32"].
        recipe: a maas_rt.compiler.Recipe, what is done to the model besides compiling it: `Recipe(quantize=Int8(calibration=[...]))`.
        tune: a maas_rt.compiler.Tune: the ways that there are to do a step are timed here, and the quickest is taken.
        verify: False leaves the check out, and the manifest says "skipped". Of code for another CPU a build for this one is checked.
        verify_with: "qemu": code for AArch64 is run, too, under qemu-user (docs/aarch64.md).
        input_shapes: fixes the shapes of an ONNX model's inputs, by name; a list of shapes for a sequence, None for an optional without a value.
        factory: "package.module:function", which builds the architecture that a checkpoint's weights belong to.
        weights: a maas_rt.compiler.Weights: which nest or prefix of the checkpoint is the model, where its names alone do not tell.
        name: the model's name in the manifest.
        progress: called with (stage, fraction done).
        keep_intermediates: a folder for the inputs and both results of the first operator that differs, as .npz, if one does.
        code: "shared" puts generated functions into the file; "object" beside it, to be linked into a host (docs/embedding.md).

    Raises:
        UnsupportedOperatorError: the model has operators without a conversion; it lists all of them.
        ImportModelError, CheckpointError: the source cannot be read, or does not fit the architecture.
        VerificationError: the compiled model computes something else; it names the first operator that differs.
        CompileError: anything else that stands in the way, in one sentence. No other exception leaves this function but Ctrl-C and
            what `progress` raises.
    """
    try:
        from ._boundary import boundary
        from ._configs import CompileOptions, Tune, VerifyOptions
        from ._pipeline import compile_imported
        from ._recipes import Recipe
        from .importers import import_model
        from .importers._examples import named_examples
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "maas_rt":
            raise
        raise MissingExtraError("maas_rt.compiler", "compiler", error.name) from error
    if recipe is not None and not isinstance(recipe, Recipe):
        raise CompileError(f"recipe is a {type(recipe).__name__}, expected a maas_rt.compiler.Recipe")
    if tune is not None and not isinstance(tune, Tune):
        raise CompileError(f"tune is a {type(tune).__name__}, expected a maas_rt.compiler.Tune")
    with boundary("options"):
        options = CompileOptions(
            targets=tuple(target.split(",")) if isinstance(target, str) else tuple(target),
            name=name,
            verify=VerifyOptions(keep_intermediates=keep_intermediates) if verify else None,
            dynamic=dynamic,
            input_shapes=input_shapes,
            factory=factory,
            recipe=recipe,
            tune=tune,
            verify_with=verify_with,
            code=code,
        )
        options.check()  # what cannot be is refused before any work
    if progress is not None:
        progress("import", 0.0)
    imported = import_model(
        model, example_inputs, dynamic=dynamic, input_shapes=input_shapes, factory=factory, weights=weights
    )
    with boundary("read the example inputs"):
        own = factory is None and not hasattr(model, "forward")  # what is traced has names from its examples
        examples = named_examples(example_inputs, imported.input_names, own)
    return compile_imported(imported, options, examples=examples, progress=progress, last=True)


def compress(
    model: Any,
    data: Any,
    evaluate: Callable[[Callable[[Mapping[str, Any]], dict[str, Any]]], float],
    budget: Budget | Mapping[str, Any],
    *,
    judge: Callable[[Callable[[Mapping[str, Any]], dict[str, Any]]], float] | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    target: str | Sequence[str] = "native",
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
    weights: Weights | None = None,
    name: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    keep_journal: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Search for the quickest (smallest, cheapest) form of `model` that keeps the budget, and compile it.

    Args:
        model, example_inputs, target, dynamic, input_shapes, factory, weights, name: as `compile` has them.
        data: calibration inputs: an iterable of sets of inputs by name, or arrays by name with samples along the first axis.
        evaluate: `evaluate(run)` gives one number, more of it for better. `run` takes a dict of inputs by name and gives a dict of
            outputs, as the model that is tried computes them. It chooses.
        budget: a Budget, or a mapping with its fields as keys.
        judge: as evaluate, on other data, asked once at the end: a figure that chose nothing.
        journal: a file in which measurements are kept; the same search goes on from there when it was interrupted. Gone at the end, unless
            `keep_journal`: for who writes the artifact to a disk that may be full, and removes the journal then.
        progress: called with (what is done, fraction of the time that is over).

    Returns:
        The artifact; `.report` has all that was measured, `.manifest["compression"]` the sum of it.

    Raises:
        CompileError: nothing that was tried keeps the budget; it names what came nearest.
        InvalidArgumentError: data that are not the model's; an `evaluate` that fails, gives no number, or differs from run to run by more
            than the budget admits. And what `compile` raises.
    """
    try:
        from .search import compress as searched
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "maas_rt":
            raise
        raise MissingExtraError("maas_rt.compiler", "compiler", error.name) from error
    return searched(
        model, data, evaluate, budget, judge=judge, example_inputs=example_inputs, target=target, dynamic=dynamic,
        input_shapes=input_shapes, factory=factory, weights=weights, name=name, journal=journal, keep_journal=keep_journal,
        progress=progress,
    )  # fmt: skip

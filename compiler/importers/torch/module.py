"""nn.Module to Relax: a copy in eval mode goes through torch.export, with the dynamic dimensions that the caller names."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from maas_rt._errors import CompileError, ImportModelError, InvalidArgumentError

from ..._boundary import first_line
from ..._configs import Weights
from ..._memory import return_memory
from .._dynamic import AskedBounds, asked_bounds, requested
from .._imported import ImportedModel
from ..checkpoint import FewBits, load_checkpoint
from ._decisions import recorded
from ._decompose import decompose, quiet
from ._dynamic import dynamic_shapes, widened
from ._libraries import traceable_libraries
from ._narrowing import narrowed_by
from ._traceable import traceable_sizes
from .export import Program
from .source import from_numpy

__all__ = ["build_from_factory", "import_checkpoint", "import_module"]

_LARGE = 1 << 16  # elements
_TRIM_ABOVE = 1 << 26  # bytes of weights


def import_module(
    module: torch.nn.Module,
    examples: Any = None,
    *,
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> ImportedModel:
    """Import a module, traced with example inputs: a tensor, a tuple of them, or a dict by forward's argument names.

    The module itself is left as it is: buffers and training flags belong to a copy, which shares large parameters, as nothing here
    writes to them. `dynamic`: see `_dynamic.dynamic_shapes`.
    Without examples, `input_shapes` gives float32 inputs by name.
    """
    return _imported_module(_copied(module), examples, dynamic, input_shapes, "module")


def _imported_module(
    module: torch.nn.Module,
    examples: Any,
    dynamic: Any,
    input_shapes: Mapping[str, Sequence[int]] | None,
    kind: str,
    few_bits: FewBits | None = None,
) -> ImportedModel:
    """The module, in eval mode and on the CPU, which may be changed. `few_bits` are the weights that a checkpoint has so."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ImportModelError(
            "the model is TorchScript (torch.jit.trace or torch.jit.script), whose code torch.export cannot trace: give the nn.Module that it was "
            "made from, or export that to .pt2 or .onnx"
        )
    args, kwargs = _arguments(module, examples, input_shapes)
    _settle(module, args, kwargs)
    bound = _bound_arguments(module, args, kwargs)
    wishes = requested(dynamic)
    shapes = dynamic_shapes(wishes, bound.arguments)
    wide = inspect.BoundArguments(bound.signature, bound.arguments.copy())
    wide.arguments.update(widened(bound.arguments, shapes))
    with recorded() as decisions:
        program = _exported(module, wide.args, wide.kwargs, shapes)
    args, kwargs = bound.args, bound.kwargs
    spec = pytree.tree_structure((args, kwargs))

    def run(leaves: list[Any]) -> Any:
        positional, named = pytree.tree_unflatten(leaves, spec)
        before = {name: tensor.detach().clone() for name, tensor in module.named_buffers()}
        try:
            found = module(*positional, **named)
            return pytree.tree_map_only(torch.Tensor, torch.clone, found)  # what is a buffer itself stays as it is now
        finally:
            for name, tensor in module.named_buffers():
                tensor.copy_(before[name])

    built = Program(program, decompose(program), run, kind, import_module, few_bits)
    built.examples = (args, kwargs)

    def cause(asked: AskedBounds, symbol: str) -> str:
        return built.symbols.narrowed.get(symbol) or narrowed_by(
            lambda: _exported(module, wide.args, wide.kwargs, shapes), asked.input, asked.axis
        )

    return built.with_conditions(built.build(), asked_bounds(wishes), cause, decisions, source_is_module=True)


def import_checkpoint(
    path: Path | Sequence[Path],
    factory: str,
    examples: Any = None,
    *,
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    weights: Weights | None = None,
) -> ImportedModel:
    """Build the architecture with "package.module:factory", fill it from a checkpoint, and import it.

    The factory takes no arguments and returns the module, or (module, example inputs), or (module, example inputs, dynamic).
    """
    module, own_examples, own_dynamic = build_from_factory(factory)
    few_bits = load_checkpoint(module, path, weights)
    if sum(value.nbytes for value in module.state_dict().values() if isinstance(value, torch.Tensor)) > _TRIM_ABOVE:
        return_memory()  # the two readers' copies
    if examples is None and not input_shapes:
        examples = own_examples
    return _imported_module(
        module.cpu().eval(), examples, dynamic or own_dynamic, input_shapes, "checkpoint", few_bits
    )  # the module is ours alone: no copy


def build_from_factory(factory: str) -> tuple[torch.nn.Module, Any, Any]:
    """Call "package.module:factory"; modules of the working directory are found."""
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise InvalidArgumentError(f"--model {factory} does not name an architecture: expected package.module:factory")
    function: Any = _imported(module_name, factory)
    for part in attribute.split("."):
        if not hasattr(function, part):
            raise InvalidArgumentError(
                f"{module_name} has no {attribute}: give --model package.module:factory with a function in it"
            )
        function = getattr(function, part)
    try:
        built = function()
    except Exception as error:  # the author's code
        raise CompileError(
            f"--model {factory}: the function raised {type(error).__name__}: {first_line(error)}"
        ) from error
    parts = tuple(built) if isinstance(built, (tuple, list)) else (built,)
    if not parts or len(parts) > 3 or not isinstance(parts[0], torch.nn.Module):
        raise InvalidArgumentError(f"{factory} returned a {type(built).__name__}: expected a torch.nn.Module")
    return parts[0], (parts[1] if len(parts) > 1 else None), (parts[2] if len(parts) > 2 else None)


def _imported(name: str, factory: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the author's code raises while it is imported
        raise InvalidArgumentError(f"--model {factory}: cannot import {name}: {first_line(error)}") from error
    finally:
        sys.path.remove(here)


def _copied(module: torch.nn.Module) -> torch.nn.Module:
    shared = {id(each): each for each in module.parameters() if type(each) is torch.nn.Parameter and _is_large(each)}
    try:
        return copy.deepcopy(module, shared).cpu().eval()
    except Exception as error:
        raise ImportModelError(
            f"the module cannot be copied ({type(error).__name__}: {error}): export it with torch.export.export, and compile that"
        ) from error


def _is_large(parameter: torch.nn.Parameter) -> bool:
    return parameter.device.type == "cpu" and parameter.numel() >= _LARGE


def _settle(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A first call, which makes lazy modules (LazyLinear) what they become."""
    if any(isinstance(part, torch.nn.modules.lazy.LazyModuleMixin) for part in module.modules()):
        try:
            with torch.no_grad():
                module(*args, **kwargs)
        except Exception as error:
            raise ImportModelError(
                f"the model's lazy modules need a first call, which fails on the example inputs: {type(error).__name__}: {error}"
            ) from error


def _arguments(
    module: torch.nn.Module, examples: Any, input_shapes: Mapping[str, Sequence[int]] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the traced call, tensors made of numpy arrays."""
    if examples is None:
        if not input_shapes:
            raise InvalidArgumentError(
                "a module is traced with example inputs, and none were given: pass example_inputs, or input shapes for float32 inputs"
            )
        draw = np.random.default_rng(0)
        examples = {name: draw.standard_normal(list(shape)).astype(np.float32) for name, shape in input_shapes.items()}
    examples = pytree.tree_map(_as_torch, examples)
    if isinstance(examples, Mapping):
        return _by_name(module, dict(examples))
    if isinstance(examples, (tuple, list)):
        return tuple(examples), {}
    return (examples,), {}


def _by_name(module: torch.nn.Module, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    parameters = inspect.signature(module.forward).parameters
    flexible = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in given if name not in parameters]
    if unknown and not flexible:
        raise InvalidArgumentError(
            f"the model has no input named {unknown[0]!r}: its inputs are {', '.join(parameters)}"
        )
    args: list[Any] = []
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) or name not in given:
            break
        args.append(given.pop(name))
    if flexible and unknown:
        _spell_out(module, unknown)
    return tuple(args), given


def _spell_out(module: torch.nn.Module, names: Sequence[str]) -> None:
    """Give forward's `**more` the names that it is called with: torch.export cannot make their dimensions dynamic otherwise."""
    forward = module.forward
    signature = inspect.signature(forward)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]

    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    call.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    module.forward = call


def _bound_arguments(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments by forward's names; `*rest` is a tuple, `**more` a dict, as in torch.export's dynamic_shapes."""
    try:
        return inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidArgumentError(f"the example inputs do not fit the model: {error}") from error


def _as_torch(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return from_numpy(value)
    return value.detach() if isinstance(value, torch.Tensor) else value


def _packed(module: torch.nn.Module) -> str | None:
    """The first part of the kind that torch.ao's eager quantization makes, by its name and type."""
    for name, part in module.named_modules():
        home = type(part).__module__
        if (
            home.startswith(("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized."))
            and ".reference." not in home
        ):
            return f"{name or 'the model'} ({home.split('.modules')[0]}.{type(part).__name__})"
    return None


def _exported(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    try:
        with quiet(), torch.no_grad(), traceable_libraries(), traceable_sizes():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
        if "onstraint" in str(error) and shapes is not None:
            marked = [line.split(". ")[0] for line in lines if line.startswith("You marked")] or lines[:1]
            text = "; ".join(dict.fromkeys(marked))
            raise InvalidArgumentError(
                f"the model does not work with the dynamic dimensions that were asked for: {text}"
            ) from error
        packed = _packed(module)
        if packed is not None:
            raise ImportModelError(
                f"{packed} has weights that torch packed for kernels of its own, which torch.export cannot read: compile the float model, with "
                "a recipe of maas_rt.compiler or quantized by PT2E or quantize_ of torchao, whose operators an export keeps"
            ) from error
        text = " ".join(line for line in lines[:2] if not line.startswith("The error above occurred"))
        raise ImportModelError(f"torch.export cannot trace the model: {text or type(error).__name__}") from error

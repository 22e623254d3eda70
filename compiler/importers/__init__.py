"""From a trained model, in any form that is understood, to one Relax function: `import_model` looks at what it is given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maas_rt._errors import ImportModelError, InvalidArgumentError, SourceNotFoundError

from .._boundary import boundary
from ._imported import ImportedModel, Source, StateSpec, SymbolSpec

if TYPE_CHECKING:
    from .._configs import Weights

__all__ = ["ImportedModel", "Source", "StateSpec", "SymbolSpec", "import_model"]

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".json", ".gz", ".bz2", ".xz", ".zst")


@boundary("import")
def import_model(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
    weights: Weights | None = None,
) -> ImportedModel:
    """Import `model`: an nn.Module, an ExportedProgram, an onnx.ModelProto, or a path to a .pt2, an .onnx, or (with `factory`,
    "package.module:function") to a checkpoint: a file, a directory, or a list of files; `weights` chooses among what it holds.

    `dynamic` names symbolic dimensions: {"x": {0: (1, 32)}}, {"x": {0: Dim}}, or strings "x:0=1..32".
    Raises ImportModelError, UnsupportedOperatorError, CheckpointError or InvalidArgumentError.
    """
    if weights is not None and factory is None:
        raise InvalidArgumentError(
            "weights chooses among those of a checkpoint, which needs its architecture: give --model"
        )
    if isinstance(model, (list, tuple)) and model and all(isinstance(part, (str, os.PathLike)) for part in model):
        if len(model) > 1:
            return _import_files(
                [Path(part) for part in model], example_inputs, dynamic, input_shapes, factory, weights
            )
        model = model[0]
    if isinstance(model, (str, os.PathLike)):
        return _import_path(Path(model), example_inputs, dynamic, input_shapes, factory, weights)
    root = type(model).__module__.partition(".")[0]
    if root == "onnx" and type(model).__name__ == "ModelProto":
        _no_factory(factory, "an onnx.ModelProto")
        from .onnx import import_onnx

        return import_onnx(model, dynamic=dynamic, input_shapes=input_shapes)
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        _no_factory(factory, "an ExportedProgram")
        from .torch.export import import_exported_program
        from .torch.module import import_module

        return import_exported_program(model, import_module, dynamic=dynamic, input_shapes=input_shapes)
    if isinstance(model, torch.nn.Module):
        _no_factory(factory, "an nn.Module")
        from .torch.module import import_module

        return import_module(model, example_inputs, dynamic=dynamic, input_shapes=input_shapes)
    raise InvalidArgumentError(
        f"cannot compile an object of type {type(model).__name__}: expected a path, an nn.Module, an ExportedProgram or an "
        "onnx.ModelProto"
    )


def _import_files(
    paths: list[Path],
    example_inputs: Any,
    dynamic: Any,
    input_shapes: Any,
    factory: str | None,
    weights: Weights | None,
) -> ImportedModel:
    absent = next((path for path in paths if not path.exists()), None)
    if absent is not None:
        raise SourceNotFoundError(str(absent))
    if factory is None:
        raise ImportModelError(
            "several files are one checkpoint's, which needs its architecture: give --model package.module:factory"
        )
    from .torch.module import import_checkpoint

    return import_checkpoint(
        paths, factory, example_inputs, dynamic=dynamic, input_shapes=input_shapes, weights=weights
    )


def _import_path(
    path: Path,
    example_inputs: Any,
    dynamic: Any,
    input_shapes: Any,
    factory: str | None,
    weights: Weights | None,
) -> ImportedModel:
    if not path.exists():
        raise SourceNotFoundError(str(path))
    suffix = path.suffix.lower()
    if factory is None and path.is_dir():
        raise ImportModelError(
            f"{path} is a directory: a checkpoint directory needs its architecture, give --model package.module:factory"
        )
    if suffix == ".onnx":
        _no_factory(factory, "an ONNX file")
        from .onnx import import_onnx

        return import_onnx(path, dynamic=dynamic, input_shapes=input_shapes)
    if suffix == ".pt2":
        _no_factory(factory, "a .pt2 file")
        from .torch.pt2 import import_pt2

        return import_pt2(path, dynamic=dynamic, input_shapes=input_shapes)
    if factory is not None:
        from .torch.module import import_checkpoint

        return import_checkpoint(
            path, factory, example_inputs, dynamic=dynamic, input_shapes=input_shapes, weights=weights
        )
    if suffix in CHECKPOINT_SUFFIXES:
        raise ImportModelError(
            f"{path} holds weights without their architecture: give --model package.module:factory, or export the model to .pt2 or "
            ".onnx"
        )
    raise ImportModelError(
        f"{path} is of no known kind: expected .onnx, .pt2, or a checkpoint with --model package.module:factory"
    )


def _no_factory(factory: str | None, what: str) -> None:
    if factory is not None:
        raise InvalidArgumentError(f"{what} carries its own architecture: leave out --model {factory}")

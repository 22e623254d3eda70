"""From a trained model, in any form that is understood, to one Relax function: `import_model` looks at what it is given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maas_rt._errors import ImportModelError, InvalidArgumentError

from .._boundary import boundary
from ._imported import ImportedModel, Source, StateSpec, SymbolSpec

__all__ = ["ImportedModel", "Source", "StateSpec", "SymbolSpec", "import_model"]

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@boundary("import")
def import_model(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
) -> ImportedModel:
    """Import `model`: an nn.Module, an ExportedProgram, an onnx.ModelProto, or a path to a .pt2, an .onnx, or (with `factory`,
    "package.module:function") to a checkpoint: .safetensors, .pt, .pth or a DCP directory.

    `dynamic` names symbolic dimensions: {"x": {0: (1, 32)}}, {"x": {0: Dim}}, or strings "x:0=1..32".
    Raises ImportModelError, UnsupportedOperatorError, CheckpointError or InvalidArgumentError.
    """
    if isinstance(model, (str, os.PathLike)):
        return _import_path(Path(model), example_inputs, dynamic, input_shapes, factory)
    root = type(model).__module__.partition(".")[0]
    if root == "onnx" and type(model).__name__ == "ModelProto":
        _no_factory(factory, "an onnx.ModelProto")
        from .onnx import import_onnx

        return import_onnx(model, dynamic=dynamic, input_shapes=input_shapes)
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        _no_factory(factory, "an ExportedProgram")
        from .torch.export import import_exported_program

        return import_exported_program(model, dynamic=dynamic, input_shapes=input_shapes)
    if isinstance(model, torch.nn.Module):
        _no_factory(factory, "an nn.Module")
        from .torch.module import import_module

        return import_module(model, example_inputs, dynamic=dynamic, input_shapes=input_shapes)
    raise InvalidArgumentError(
        f"cannot compile an object of type {type(model).__name__}: expected a path, an nn.Module, an ExportedProgram or an "
        "onnx.ModelProto"
    )


def _import_path(
    path: Path, example_inputs: Any, dynamic: Any, input_shapes: Any, factory: str | None
) -> ImportedModel:
    if not path.exists():
        raise ImportModelError(f"there is no file {path}: give the path of a model")
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

        return import_checkpoint(path, factory, example_inputs, dynamic=dynamic, input_shapes=input_shapes)
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

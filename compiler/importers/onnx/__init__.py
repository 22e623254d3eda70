"""ONNX models, opset 7 to the newest that the installed onnx knows, as one Relax function; converters of our own (`ops/`)."""

from . import ops  # noqa: F401 - its modules register their converters
from ._import import import_onnx
from ._registry import supported

__all__ = ["import_onnx", "supported"]

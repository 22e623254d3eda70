"""torch models to Relax: ExportedProgram, nn.Module and .pt2, through a converter table of our own."""

from . import (
    _meta,  # noqa: F401 - it registers rules that torch lacks
    ops,  # noqa: F401 - its modules register their converters
)

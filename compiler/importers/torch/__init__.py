"""torch models to Relax: ExportedProgram, nn.Module and .pt2, through a converter table of our own."""

from . import ops  # noqa: F401 - its modules register their converters

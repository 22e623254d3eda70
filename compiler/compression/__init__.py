"""Models made smaller: a recipe done to the IR (`_apply.py`), from data of any form (`_samples.py`), and the check of what comes out."""

from ._apply import Compressed, compressed
from ._check import verify_compressed
from ._layers import Layer, layers, weight_count
from ._prune import prunable
from ._reasons import reason_against
from ._samples import Samples, input_types
from ._spool import Spool

__all__ = [
    "Compressed",
    "Layer",
    "Samples",
    "Spool",
    "compressed",
    "input_types",
    "layers",
    "prunable",
    "reason_against",
    "verify_compressed",
    "weight_count",
]

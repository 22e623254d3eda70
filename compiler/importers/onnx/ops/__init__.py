"""The converters, grouped by theme; importing this package registers them all."""

from . import (
    choose,
    contrib,
    control,
    elementwise,
    linalg,
    nn,
    norm,
    pool,
    quant,
    reduce,
    resize,
    rnn,
    sequence,
    shape,
    symbolic,
    vision,
)

__all__ = [
    "choose",
    "contrib",
    "control",
    "elementwise",
    "linalg",
    "nn",
    "norm",
    "pool",
    "quant",
    "reduce",
    "resize",
    "rnn",
    "sequence",
    "shape",
    "symbolic",
    "vision",
]

"""The converters, a family of operators a file; importing this package fills the table."""

from . import (
    activation,
    attention,
    control,
    conv,
    create,
    elementwise,
    indexing,
    linear,
    norm,
    pool,
    reduce,
    resize,
    rnn,
    shape,
    special,
)

__all__ = [
    "activation",
    "attention",
    "control",
    "conv",
    "create",
    "elementwise",
    "indexing",
    "linear",
    "norm",
    "pool",
    "reduce",
    "resize",
    "rnn",
    "shape",
    "special",
]

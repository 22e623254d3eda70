"""The converters, grouped by theme; importing this package registers them all."""

from . import choose, elementwise, linalg, nn, norm, pool, quant, reduce, resize, rnn, shape, symbolic  # noqa: F401

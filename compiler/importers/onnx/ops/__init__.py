"""The converters, grouped by theme; importing this package registers them all."""

from . import choose, elementwise, nn, norm, pool, reduce, resize, shape, symbolic  # noqa: F401

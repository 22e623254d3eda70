"""The converters, grouped by theme; importing this package registers them all."""

from . import elementwise, nn, norm, pool, reduce, shape, symbolic  # noqa: F401

"""The converters, grouped by theme; importing this package registers them all."""

from . import elementwise, reduce, shape, symbolic  # noqa: F401

"""Which layer is compressed how: a search within a budget of accuracy, latency and size, by measurement."""

from ._compress import compress

__all__ = ["compress"]

"""The weights section: constants as they are, and packed for the kernels that use them, each stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import CompileError

__all__ = ["ALIGNMENT", "WeightsSection"]

ALIGNMENT = 64  # of each constant in the section: a cache line, and the widest vector


@dataclass
class WeightsSection:
    """Bytes and where they are. Equal content (and packing) is stored once, whatever constant it came from."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    _stored: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _packed: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> tuple[int, int]:
        """(offset, size) of `data` in the section."""
        digest = hashlib.sha256(data).digest()
        place = self._stored.get(digest)
        if place is None:
            gap = -self.size % ALIGNMENT
            if gap:
                self.chunks.append(bytes(gap))
            place = (self.size + gap, len(data))
            self.chunks.append(data)
            self.size = place[0] + place[1]
            self._stored[digest] = place
        return place

    def add_packed(
        self, contract: str, packing: str, array: npt.NDArray[Any], attrs: Mapping[str, Any]
    ) -> tuple[int, int]:
        """(offset, size) of `array` in `packing` of `contract`, packed by the library."""
        from maas_rt import _kernels

        dense = np.ascontiguousarray(array)
        content = hashlib.sha256(dense.data).digest()
        cache = (contract, packing, content, dense.shape, repr(sorted(attrs.items())))
        data = self._packed.get(cache)
        if data is None:
            try:
                data = bytes(_kernels.pack(contract, packing, dense, dict(attrs)))
            except Exception as error:
                raise CompileError(f"the weight of {contract} could not be packed as {packing}: {error}") from error
            self._packed[cache] = data
        return self.add(data)

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks)

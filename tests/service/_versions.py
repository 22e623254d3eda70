"""Files of small models that say what they take, as the compiler's do."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import maas_rt
from maas_rt import _container
from tests import _tiny


def times(
    factor: float,
    width: int = 4,
    rows: int | str = 1,
    most: int = 64,
    names: tuple[str, str] = ("x", "y"),
    **manifest: Any,
) -> bytes:
    """x [rows, width] -> y = x * factor; `rows` may be the name of a dimension of 1 to `most`."""
    b = _tiny.Builder("times")
    if isinstance(rows, str):
        b.symbol(rows, 1, most)
    x, y = b.input(names[0], [rows, width]), b.value(names[1], [rows, width])
    b.gemm(x, np.eye(width, dtype=np.float32) * np.float32(factor), y)
    sections = b.sections(y)
    model = maas_rt.load(b"".join(_container.write(sections)))
    said = {
        **model.manifest,
        "inputs": [{"name": each.name, "dtype": each.dtype, "shape": each.shape} for each in model.inputs],
        "outputs": [{"name": each.name, "dtype": each.dtype, "shape": each.shape} for each in model.outputs],
        "symbols": {rows: {"min": 1, "max": most, "multiple": 1}} if isinstance(rows, str) else {},
        **manifest,
    }
    sections[0] = _container.Section(_container.SectionKind.MANIFEST, json.dumps(said, sort_keys=True).encode())
    return b"".join(_container.write(sections))

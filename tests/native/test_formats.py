"""Files of every released format load and compute what they did when they were written (csrc/artifact/FORMAT.md's promise)."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

import maas_rt

KEPT = sorted((Path(__file__).parents[1] / "data" / "formats").glob("*.mrt"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kept files hold code for x86-64 levels")
@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"format {path.stem}")
def test_a_kept_file_still_runs(path: Path) -> None:
    with np.load(path.with_suffix(".npz")) as file:
        kept = dict(file)
    model = maas_rt.load(path, verify="full")
    outputs = model.run({info.name: kept[info.name] for info in model.inputs})
    for info in model.outputs:
        np.testing.assert_allclose(outputs[info.name], kept[info.name], rtol=1e-5, atol=1e-6)


def test_one_is_kept() -> None:
    assert [path.stem for path in KEPT] == ["1"]

"""The benchmark's workers, for real: a small model, two runtimes that run it, one that cannot, and the C program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench._agreement import relative_error
from bench._formats import FORMATS
from bench._harness import Worker, compare, pinned, race
from bench.gauntlet.extras import overhead


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "mlp"
    folder.mkdir()
    FORMATS["torch"]("mlp", 1, folder)
    FORMATS["mrt"]("mlp", 1, folder)
    return folder


def test_workers_agree_and_one_that_cannot_load_is_a_reason(folder: Path) -> None:
    result = compare(folder, ["maas_rt", "torch", "onnxruntime"], threads=1, rounds=2, seconds=0.001)
    assert set(result.rounds) == {"maas_rt", "torch"}
    assert all(len(times) == 2 and min(times) > 0 for times in result.rounds.values())
    assert "model.onnx" in result.errors["onnxruntime"]
    assert relative_error(folder, "maas_rt") < 1e-5
    assert relative_error(folder, "torch") == 0
    assert result.facts["maas_rt"]["memory"] > 0
    assert result.best_peer() == "torch"


def test_the_c_program_speaks_the_protocol(folder: Path) -> None:
    with np.load(folder / "inputs.npz") as inputs:
        inputs["x"].tofile(folder / "input.f32")
    command = [str(overhead.build(folder / "call")), str(folder / "model.mrt"), str(folder / "input.f32")]
    worker = Worker("maas_rt", folder, 1, pinned(1), command=command, label="c")
    try:
        assert worker.error is None
        assert min(race([worker], 2, 0.001).rounds["c"]) > 0
    finally:
        worker.close()


def test_the_c_program_says_what_it_cannot_load(folder: Path) -> None:
    program = str(overhead.build(folder / "call"))
    worker = Worker("maas_rt", folder, 1, pinned(1), command=[program, str(folder / "none.mrt"), "x"])
    assert worker.error == "cannot load the model"
    worker.close()

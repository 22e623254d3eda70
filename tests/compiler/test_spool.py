"""Arrays on disk: they come back as they were; and what a compressed model is held to does not fill memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression import Spool, _check, _observe
from maas_rt.compiler.verify import Reference
from torch import nn


def test_arrays_come_back_as_they_were() -> None:
    sets: list[dict[str, Any]] = [
        {"a": np.arange(6, dtype=np.int64).reshape(2, 3).T, "b": np.array(True), "c": np.zeros((0, 4), np.float32)},
        {"a": np.arange(3, dtype=np.int8)[::2], "b": np.float16(2.5), "c": np.array([1, 2], ml_dtypes.bfloat16)},
    ]
    spool = Spool()
    assert list(spool.added(sets)) == sets
    for _ in range(2):  # as often as one likes
        for found, given in zip(spool, sets, strict=True):
            for name, value in given.items():
                want = np.asarray(value)
                assert found[name].dtype == want.dtype and found[name].shape == want.shape
                np.testing.assert_array_equal(found[name], want)
                assert found[name].flags.writeable


def test_the_sources_outputs_are_held_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    most = [0]

    class Watched(Reference):
        def run(self, inputs: Any, *, insist: bool = True) -> dict[str, Any]:
            found = {name: np.array(value) for name, value in super().run(inputs, insist=insist).items()}
            gc.collect()
            alive.extend(weakref.ref(value) for value in found.values())
            most[0] = max(most[0], sum(each() is not None for each in alive))
            return found

    for module in (_check, _observe):
        monkeypatch.setattr(module, "Reference", Watched)
    data = np.random.default_rng(0).standard_normal((12, 1, 16)).astype(np.float32)
    torch.manual_seed(0)
    compile_model(
        nn.Linear(16, 8).eval(), [torch.from_numpy(data[0])], recipe=Recipe(quantize=Int8(), calibration=data)
    )
    assert len(alive) >= 24 and most[0] <= 2

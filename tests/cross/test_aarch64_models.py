"""Models for AArch64 against torch, the files themselves run under qemu: the seven of bench/models (`make test-cross`; else the smallest), and
what is not a plain float model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler.emulation import CPUS, EmulatedModel

import maas_rt
from bench.models import CASES
from maas_rt import compiler
from tests.cross._tools import FULL, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

NAMES = [name for name in CASES if FULL or name == "mlp"]


@pytest.mark.parametrize("target", CPUS if FULL else ["aarch64-i8mm"])
@pytest.mark.parametrize("name", NAMES)
def test_models_agree_with_torch(name: str, target: str) -> None:
    """The worst element is off by 1e-5 of the output's scale at most: the manifest has the power of ten above it."""
    case = CASES[name]
    artifact = compiler.compile(case.module(), case.inputs(1), target=target, verify_with="qemu", name=name)
    verified = artifact.manifest["verified"]
    (emulated,) = verified["emulated"]
    assert verified["status"] in ("emulated", "passed")  # passed: it has no code, and ran here, too
    assert (emulated["target"], emulated["cpu"]) == (target, CPUS[target])
    assert emulated["max_relative_error"] <= 1e-5


class Counter(torch.nn.Module):
    """Has a state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x.mean(0))  # type: ignore[operator]
        return torch.exp(x) * self.seen  # type: ignore[operator, no-any-return]


class Noise(torch.nn.Module):
    """Draws random numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x).sin()


class Sine(torch.nn.Module):
    """Is generated code alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin()


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 16, 3), torch.nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [Counter, Noise])
def test_states_and_random_numbers(model: type[torch.nn.Module]) -> None:
    artifact = compiler.compile(model(), {"x": torch.randn(4, 3)}, target="aarch64", verify_with="qemu")
    assert artifact.manifest["verified"]["emulated"][0]["max_relative_error"] <= 1e-6


def test_a_quantized_model_is_held_to_its_recipe_there_too() -> None:
    data = [{"x": np.random.default_rng(seed).standard_normal((1, 3, 12, 12), np.float32)} for seed in range(8)]
    recipe = Recipe(quantize=Int8(calibration=data))
    artifact = compiler.compile(
        Layers().eval(),
        {"x": torch.zeros(1, 3, 12, 12)},
        target="x86-64-v2,aarch64-dotprod",
        recipe=recipe,
        verify_with="qemu",
    )
    verified = artifact.manifest["verified"]
    assert verified["status"] == "passed"
    assert 0 < verified["emulated"][0]["max_relative_error"] <= verified["tolerance"]


def test_a_file_that_computes_something_else_there_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = EmulatedModel.run

    def inexact(self: EmulatedModel, inputs: Any, **options: Any) -> dict[str, Any]:
        return {name: value * np.float32(1.01) for name, value in run(self, inputs, **options).items()}

    monkeypatch.setattr(EmulatedModel, "run", inexact)
    with pytest.raises(
        maas_rt.VerificationError, match=r"the file for aarch64 computes something else under qemu \(cortex-a53\)"
    ) as caught:
        compiler.compile(Layers().eval(), {"x": torch.zeros(1, 3, 12, 12)}, target="aarch64", verify_with="qemu")
    assert "\n" not in str(caught.value) and 0.005 < caught.value.relative_error < 0.02


def test_inspect_says_what_ran_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from maas_rt._cli import main

    model, example = Sine(), {"x": torch.ones(1, 3)}
    compiler.compile(model, example, target="aarch64", verify_with="qemu").save(tmp_path / "qemu.mrt")
    compiler.compile(model, example, target="aarch64").save(tmp_path / "host.mrt")
    assert main(["inspect", str(tmp_path / "qemu.mrt")]) == 0
    assert "by this file under an emulator" in (said := capsys.readouterr().out) and "aarch64 on cortex-a53" in said
    assert main(["inspect", str(tmp_path / "host.mrt")]) == 0
    assert "this file was not run" in (said := capsys.readouterr().out) and "qemu" not in said

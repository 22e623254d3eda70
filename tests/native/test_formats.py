"""Files of every released format load and compute what they did when they were written (csrc/artifact/FORMAT.md's promise)."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import maas_rt
from maas_rt import _container, _kernels, _plan
from maas_rt._container import SectionKind
from maas_rt._plan import Encoding, ExprOp, StepKind, Storage
from tests import formats

KEPT = formats.kept()
CONTRACTS = _kernels.describe()["contracts"]
NAMES = [f"{path.parent.name}/{path.stem}" for path in KEPT]


@cache
def arrays(path: Path, group: str) -> dict[str, NDArray[Any]]:
    """What is kept under "<group>/" beside a file."""
    with np.load(path.with_suffix(".npz")) as file:
        return {key.removeprefix(f"{group}/"): file[key] for key in file.files if key.startswith(f"{group}/")}


@pytest.mark.parametrize("path", KEPT, ids=NAMES)
def test_a_kept_file_still_runs(path: Path) -> None:
    if platform.machine() != "x86_64" and _container.read(path).find(SectionKind.CODE) is not None:
        pytest.skip("this file holds code for x86-64 levels alone")
    model = maas_rt.load(path, verify="full")
    runs = []
    while kept := arrays(path, str(len(runs))):
        runs.append(kept)
    assert runs
    given = [{info.name: run[info.name] for info in model.inputs} for run in runs]
    for number, (run, outputs) in enumerate(zip(runs, formats.repeated(model, given), strict=True)):
        assert set(outputs) == set(run) - {info.name for info in model.inputs}
        for name, got in outputs.items():
            assert got.dtype == run[name].dtype
            np.testing.assert_allclose(got, run[name], rtol=1e-5, atol=1e-6, err_msg=f"{name} of run {number}")


def packed_weights() -> list[Any]:
    return [
        pytest.param(path, plan, step, plan.values[arg.index], id=f"{path.parent.name}-{plan.values[arg.index].name}")
        for path, plan in KEPT.items()
        for step in formats.steps(plan)
        for arg in step.args
        if arg.kind == _plan.ArgKind.VALUE and plan.values[arg.index].name in arrays(path, "dense")
    ]


@pytest.mark.parametrize(("path", "plan", "step", "value"), packed_weights())
def test_a_packing_gives_the_bytes_that_it_gave(path: Path, plan: Any, step: Any, value: Any) -> None:
    weights = _container.read(path).section(SectionKind.WEIGHTS)
    attrs = {attr.key: attr.text or attr.ints or attr.floats for attr in step.attrs}
    packed = _kernels.pack(step.target, step.packing, arrays(path, "dense")[value.name], attrs)
    assert packed == bytes(weights[value.offset : value.offset + value.bytes])


def test_a_file_is_kept_of_each_contract_and_packing() -> None:
    """For a new one: `python -m tests.formats` writes it."""
    steps = [step for plan in KEPT.values() for step in formats.steps(plan) if step.kind == StepKind.KERNEL]
    assert {step.target for step in steps} == set(CONTRACTS)
    wanted = {(name, packing) for name, row in CONTRACTS.items() for packing in row["packings"]}
    assert {(step.target, step.packing) for step in steps if step.packing} == wanted
    assert {step.packing for _, _, step, _ in (param.values for param in packed_weights())} == {p for _, p in wanted}


def test_a_file_is_kept_of_each_thing_that_a_plan_can_say() -> None:
    plans = KEPT.values()
    assert {expr.op for plan in plans for expr in plan.exprs} == set(ExprOp)
    # LAUNCH is for devices, which no compiler writes yet
    assert {step.kind for plan in plans for step in formats.steps(plan)} == set(StepKind) - {StepKind.LAUNCH}
    assert {value.storage for plan in plans for value in plan.values} == set(Storage)
    assert {value.encoding for plan in plans for value in plan.values} == {Encoding.DENSE, Encoding.N_M}
    assert any(plan.states for plan in plans) and any(entry.checks for plan in plans for entry in plan.entries)
    levels = [len([s for s in _container.read(path).sections if s.kind == SectionKind.CODE]) for path in KEPT]
    assert max(levels) == 3


def test_every_plan_version_has_files() -> None:
    assert {path.parent.name for path in KEPT} == {str(version + 1) for version in range(_plan.PLAN_VERSION)}

"""The Python codec and the C++ reader and writer of plans read each other's bytes: the same bytes come back."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings

from maas_rt import _container, _plan
from tests import _tiny
from tests.unit.test_plan_codec import record_strategy, small_plan

CSRC = Path(__file__).parents[2] / "csrc"


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mrt_plan_echo, built from the reader's sources: decodes a plan in C++ and encodes it again."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    tool = tmp_path_factory.mktemp("echo") / "mrt_plan_echo"
    sources = [CSRC / "tests/mrt_plan_echo.cc", CSRC / "artifact/plan.cc", CSRC / "base/status.cc"]
    command = [compiler, "-std=c++17", f"-I{CSRC}", f"-I{CSRC / 'include'}", *map(str, sources), "-o", str(tool)]
    subprocess.run(command, check=True)
    return tool


def echoed(tool: Path, data: bytes, folder: Path) -> tuple[int, bytes, str]:
    source, result = folder / "in.plan", folder / "out.plan"
    source.write_bytes(data)
    result.unlink(missing_ok=True)
    run = subprocess.run([tool, source, result], capture_output=True, text=True)
    return run.returncode, result.read_bytes() if result.exists() else b"", run.stderr


@pytest.mark.parametrize("model", ["softmax", "mlp", "two_outputs", "accumulator", "gather", "endless"])
def test_plans_of_models_come_back(echo: Path, tmp_path: Path, model: str) -> None:
    data = bytes(_container.read(getattr(_tiny, model)()).section(_container.SectionKind.PLAN))
    assert echoed(echo, data, tmp_path) == (0, data, "")
    assert _plan.encode(_plan.decode(data)) == data


@settings(max_examples=40, deadline=None)
@given(plan=record_strategy(_plan.Plan))
def test_any_plan_comes_back(echo: Path, tmp_path_factory: pytest.TempPathFactory, plan: _plan.Plan) -> None:
    data = _plan.encode(plan)
    assert echoed(echo, data, tmp_path_factory.getbasetemp()) == (0, data, "")


def test_both_refuse_the_same_damage(echo: Path, tmp_path: Path) -> None:
    data = _plan.encode(small_plan())
    for n in range(0, len(data), 5):
        code, result, sentence = echoed(echo, data[:n], tmp_path)
        assert (code, result) == (1, b"")
        assert sentence
    code, _, sentence = echoed(echo, data + b"\0", tmp_path)
    assert code == 1
    assert sentence

"""One file on CPUs of several levels, under qemu: the code section of the level runs, kernels without AVX2 too, and no instruction is
illegal. `make test-cross`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import maas_rt

ROOT = Path(__file__).parents[2]
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
KEPT = ROOT / "tests" / "data" / "formats" / "1" / "levels.mrt"  # has code for x86-64-v3, -v2 and x86-64

pytestmark = pytest.mark.skipif(QEMU is None, reason="needs qemu-x86_64: apt-get install qemu-user-static")


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package, program = Path(maas_rt.__file__).parent, tmp_path_factory.mktemp("cross") / "classify"
    source = ROOT / "csrc" / "examples" / "classify.c"
    link = [f"-L{package}", "-lmaas_rt", f"-Wl,-rpath,{package.resolve()}"]
    subprocess.run(["cc", "-O2", "-o", program, source, f"-I{ROOT / 'csrc' / 'include'}", *link], check=True)
    return program


def emulate(cpu: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    assert QEMU is not None
    return subprocess.run([QEMU, "-cpu", cpu, *map(str, command)], capture_output=True, text=True)


@pytest.mark.parametrize("cpu", ["Haswell", "Nehalem", "core2duo"])
def test_a_file_with_code_for_each_level_runs_on_each(classify: Path, tmp_path: Path, cpu: str) -> None:
    with np.load(KEPT.with_suffix(".npz")) as kept:
        x, classes = kept["0/x"], kept["0/classes"]
    x.tofile(tmp_path / "x.f32")
    result = emulate(cpu, classify, KEPT, tmp_path / "x.f32", "--top", "1")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(classes)
    for line, row in zip(lines, classes):
        best = int(row.argmax())
        assert f"class {best} ({row[best]:.4f})" in line


def test_a_file_for_a_better_cpu_is_refused_by_its_level(classify: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="compiles a model: needs the compiler extra")
    from maas_rt import compiler

    class Model(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
            return torch.log1p(torch.exp(x))

    compiler.compile(Model(), (torch.randn(1, 16),), target="x86-64-v3").save(tmp_path / "v3.mrt")
    np.zeros(16, np.float32).tofile(tmp_path / "x.f32")
    result = emulate("Nehalem", classify, tmp_path / "v3.mrt", tmp_path / "x.f32")
    assert result.returncode == 1
    assert "was compiled for x86-64-v3, this CPU is x86-64-v2" in result.stderr

"""Files with code for AArch64 on CPUs of its three levels, under qemu: the best section that the CPU runs is taken, what is not for it is
refused in a sentence, and the file computes what it computes here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.emulation import CPUS, Remote, find_emulator
from maas_rt.compiler.emulation._remote import Array

import maas_rt
from maas_rt import _container, compiler
from tests.cross._tools import missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

CODE = _container.SectionKind.CODE
LEVELS = ("aarch64-i8mm", "aarch64-dotprod", "aarch64")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.exp(self.linear(x))).sin()


X = np.linspace(-2, 2, 48, dtype=np.float32).reshape(3, 16)


@pytest.fixture(scope="module")
def artifact() -> Any:
    torch.manual_seed(0)
    return compiler.compile(Model().eval(), {"x": torch.from_numpy(X)}, target=f"x86-64-v2,{','.join(LEVELS)}")


@pytest.fixture(params=[*CPUS.values()])
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    with Remote(find_emulator().command(request.param)) as process:
        yield process


@pytest.fixture
def plain() -> Iterator[Remote]:
    """A CPU without dotprod."""
    with Remote(find_emulator().command(CPUS["aarch64"])) as process:
        yield process


def run(process: Remote, path: Path) -> Array:
    process.load(str(path))
    (result,) = process.execute([X], ["float32"])
    return result


def with_code(artifact: Any, path: Path, images: dict[str, bytes]) -> Path:
    """The artifact with other code sections, as a file."""
    parts = [part for part in artifact.sections() if part.kind != CODE]
    code = [_container.Section(CODE, image, target) for target, image in images.items()]
    _container.save(path, [*parts[:2], *code, *parts[2:]])
    return path


def test_a_file_for_four_levels_runs_on_each(artifact: Any, remote: Remote, tmp_path: Path) -> None:
    artifact.save(tmp_path / "model.mrt")
    (here,) = maas_rt.load(tmp_path / "model.mrt").run({"x": X}).values()
    np.testing.assert_allclose(run(remote, tmp_path / "model.mrt"), here, atol=2e-6)


def test_the_best_section_that_the_cpu_runs_is_taken(artifact: Any, remote: Remote, tmp_path: Path) -> None:
    """What lies in sections that are better or worse than the CPU's own is never looked at."""
    level = remote.registry()["level"]
    junk = dict.fromkeys((*LEVELS, "x86-64-v3"), b"nothing")
    run(remote, with_code(artifact, tmp_path / "own.mrt", {**junk, level: artifact.code[level]}))
    with pytest.raises(maas_rt.FormatError, match=f"the code section for {level} of .* is no 64-bit ELF shared object"):
        run(remote, with_code(artifact, tmp_path / "others.mrt", {**artifact.code, level: b"nothing"}))


def test_code_for_x86_alone_is_refused(artifact: Any, remote: Remote, tmp_path: Path) -> None:
    level = remote.registry()["level"]
    path = with_code(artifact, tmp_path / "x86.mrt", {"x86-64-v2": artifact.code["x86-64-v2"]})
    with pytest.raises(
        maas_rt.TargetError, match=f"was compiled for x86-64-v2, this CPU is {level}; compile it with --target {level}$"
    ):
        run(remote, path)


def test_a_section_for_aarch64_that_holds_x86_code_is_refused(artifact: Any, plain: Remote, tmp_path: Path) -> None:
    path = with_code(artifact, tmp_path / "lies.mrt", {"aarch64": artifact.code["x86-64-v2"]})
    with pytest.raises(maas_rt.FormatError, match="the code section for aarch64 of .* is no 64-bit ELF shared object"):
        run(plain, path)


def test_a_section_for_x86_that_holds_aarch64_code_is_refused(artifact: Any, tmp_path: Path) -> None:
    path = with_code(artifact, tmp_path / "lies.mrt", {"x86-64-v2": artifact.code["aarch64"]})
    with pytest.raises(
        maas_rt.FormatError, match="for x86-64-v2 of .* is no 64-bit ELF shared object for this machine"
    ):
        maas_rt.load(path)


def test_code_with_dotprod_is_refused_by_a_cpu_without(artifact: Any, plain: Remote, tmp_path: Path) -> None:
    better = {target: artifact.code[target] for target in LEVELS[:2]}
    path = with_code(artifact, tmp_path / "better.mrt", better)
    with pytest.raises(
        maas_rt.TargetError, match="was compiled for aarch64-i8mm, aarch64-dotprod, this CPU is aarch64; compile it"
    ):
        run(plain, path)


def test_an_instruction_set_that_the_cpu_lacks(plain: Remote) -> None:
    a = np.ones((2, 2), np.float32)
    for isa, words in (("i8mm", "i8mm"), ("avx2", "avx2")):
        with pytest.raises(maas_rt.TargetError, match=words):
            plain.run("gemm_f32", [a, a], [((2, 2), np.float32)], isa=isa)

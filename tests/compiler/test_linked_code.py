"""code="object": generated functions that are linked into a program run as those of a code section do, and are never taken for
another model's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maas_rt
from maas_rt import _container, compiler
from maas_rt._errors import CompileError, InvalidArgumentError

PACKAGE = Path(maas_rt.__file__).resolve().parent
HOST = Path(__file__).with_name("_linked_host.c")


class Net(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x[:, :8]) * self.factor - torch.cumsum(x[:, 8:] * x[:, :8], 1)


X = np.random.default_rng(0).standard_normal((2, 16), np.float32)


def build(factor: float, **options: Any) -> compiler.Artifact:
    return compiler.compile(Net(factor), (torch.from_numpy(X),), **options)


def symbols(path: Path) -> list[str]:
    found = subprocess.run(["nm", "-g", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    return [line.split()[-1] for line in found.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models whose functions have the same names, and a program that both are linked into."""
    out = tmp_path_factory.mktemp("linked")
    tables = []
    for name, factor in (("first", 2.0), ("second", 3.0)):
        build(factor, code="object", name=name).save(out / f"{name}.mrt")
        tables += re.findall(r"extern const mrt_code_table (\w+);", (out / f"{name}.h").read_text())
    X.tofile(out / "x.f32")
    defined = [f"-DFIRST={tables[0]}", f"-DSECOND={tables[1]}"]
    link = [f"-L{PACKAGE}", "-lmaas_rt", "-lm", f"-Wl,-rpath,{PACKAGE}"]
    command = [
        "cc",
        "-O1",
        "-Wall",
        "-Werror",
        *defined,
        f"-I{PACKAGE / 'include'}",
        f"-I{out}",
        "-o",
        out / "host",
        HOST,
    ]
    subprocess.run([*command, *sorted(out.glob("*.o")), *link], check=True)
    return out


def run(folder: Path, model: str, tables: str) -> str:
    result = subprocess.run(
        [folder / "host", folder / model, tables, folder / "x.f32"], capture_output=True, text=True, check=False
    )
    assert result.returncode in (0, 1), result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(("model", "factor"), [("first.mrt", 2.0), ("second.mrt", 3.0)])
def test_each_model_finds_its_own_functions_among_both_and_gives_the_same_numbers(
    folder: Path, model: str, factor: float
) -> None:
    expected = build(factor, verify=False).loaded()(X)
    printed = np.array(run(folder, model, "both").split(), np.float32).reshape(2, 8)
    np.testing.assert_array_equal(printed, expected)


def test_an_object_file_shows_its_table_and_the_file_holds_no_code(folder: Path) -> None:
    (image,) = folder.glob("first.*.o")
    level = image.name[len("first.") : -len(".o")]
    assert symbols(image) == [f"mrt_code_first_{re.sub('[^A-Za-z0-9]', '_', level)}"]
    read = _container.read(folder / "first.mrt")
    assert read.find(_container.SectionKind.CODE) is None
    assert len(read.section(_container.SectionKind.OBJECT, level)) == 32


def test_a_table_of_another_model_is_refused(folder: Path) -> None:
    said = run(folder, "first.mrt", "second")
    assert said.startswith(
        "MRT_ERROR_HASH: the functions that were linked (load option code_tables) are of another model"
    )
    assert "\n" not in said


@pytest.mark.parametrize(
    ("tables", "status", "sentence"),
    [
        ("none", "MRT_ERROR_TARGET", "are to be linked into a program"),
        ("null", "MRT_ERROR_INVALID_ARGUMENT", "table 0 of 1 is NULL"),
        ("newer", "MRT_ERROR_VERSION", "table 0 has version 2, this library reads 1"),
    ],
)
def test_tables_that_cannot_be(folder: Path, tables: str, status: str, sentence: str) -> None:
    said = run(folder, "first.mrt", tables)
    assert said.startswith(f"{status}: ")
    assert sentence in said
    assert "\n" not in said


def test_an_object_section_of_another_size_is_refused(folder: Path) -> None:
    kept = _container.read(folder / "first.mrt")
    cut = [
        _container.Section(
            s.kind, bytes(s.data)[:31] if s.kind == _container.SectionKind.OBJECT else bytes(s.data), s.target
        )
        for s in kept.sections
    ]
    _container.save(folder / "cut.mrt", cut)
    assert "does not hold 32 bytes" in run(folder, "cut.mrt", "both")


def test_python_says_that_such_a_file_is_for_a_program(folder: Path) -> None:
    with pytest.raises(maas_rt.Error, match="compile it without --code object"):
        maas_rt.load(folder / "first.mrt")


def test_the_same_model_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    build(2.0, code="object", name="first").save(tmp_path / "first.mrt")
    names = sorted(each.name for each in tmp_path.iterdir())
    assert len(names) == 3
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_model_of_kernels_alone_has_nothing_to_link(tmp_path: Path) -> None:
    artifact = compiler.compile(torch.nn.Linear(16, 4), (torch.from_numpy(X),), code="object")
    artifact.save(tmp_path / "model.mrt")
    assert [each.name for each in tmp_path.iterdir()] == ["model.mrt"]
    assert maas_rt.load(tmp_path / "model.mrt")(X).shape == (2, 4)


def test_what_code_may_be() -> None:
    with pytest.raises(InvalidArgumentError, match="code is 'static', expected 'shared' or 'object'"):
        build(2.0, code="static")


def test_without_objcopy_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *a, **k: None if "objcopy" in str(name) else which(name, *a, **k))
    with pytest.raises(CompileError, match="no objcopy for .* was found"):
        build(2.0, code="object")

"""CONTRIBUTING's recipes, each as the patch that follows it: a kernel family is its folder and a line, a pass its file and a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import maas_rt

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "tests" / "data" / "recipes"
PATCH = RECIPES / "kernel.patch"
BUILD = ROOT / "build" / "editable"
AVX512 = "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -Wno-uninitialized -Wno-maybe-uninitialized".split()
OBJECTS = BUILD / "CMakeFiles" / "maas_rt_objects.dir"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with the patches of a kernel and of an instruction set: what they touch is compiled, all other objects are those of the editable build."""
    if not (OBJECTS / "kernels").is_dir() or shutil.which("c++") is None:
        pytest.skip(f"needs a C++ compiler and the objects of an editable install, which are not under {OBJECTS}")
    folder = tmp_path_factory.mktemp("recipe")
    shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=shutil.ignore_patterns("tests", "python", "examples"))
    subprocess.run(["git", "apply", str(PATCH), str(RECIPES / "isa.patch")], cwd=folder, check=True)
    kernels = folder / "csrc" / "kernels"
    again = ["registry", "resize/resize2d_f32"]  # what includes a list that a patch adds to
    new = []
    for source in [
        *(kernels / f"{name}.cc" for name in [*again, "resize/resize_avx512"]),
        *(kernels / "scaled_add").glob("*.cc"),
    ]:
        new.append(folder / f"{source.stem}.o")
        flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
        flags += AVX512 if source.stem.endswith("_avx512") else []
        command = ["c++", *flags, f"-I{folder}/csrc", f"-I{folder}/csrc/include", "-c", str(source), "-o", str(new[-1])]
        subprocess.run(command, check=True)
    built = [path.relative_to(ROOT / "csrc") for path in (ROOT / "csrc").rglob("*.cc")]
    objects = [
        OBJECTS / f"{path}.o"
        for path in built
        if path.with_suffix("") not in [Path("kernels") / name for name in again]
    ]
    old = [path for path in objects if path.is_file()]
    result = folder / "libmaas_rt.so"
    link = ["c++", "-shared", "-Wl,-soname,libmaas_rt.so", f"-Wl,--version-script={ROOT}/csrc/capi/exports.map"]
    subprocess.run([*link, "-o", str(result), *map(str, [*new, *old]), "-lpthread", "-ldl", "-lm"], check=True)
    return result


def test_the_patch_is_a_folder_and_a_line() -> None:
    touched = [line.split()[-1] for line in PATCH.read_text().splitlines() if line.startswith("diff --git")]
    outside = [name for name in touched if not name.startswith("b/csrc/kernels/scaled_add/")]
    assert outside == ["b/csrc/kernels/registry.inc"]
    changed = [line for line in PATCH.read_text().split("registry.inc")[-1].splitlines() if line[:1] in "+-"]
    assert [line for line in changed if "OPERATOR" in line] == ["+MRT_OPERATOR(scaled_add_f32)"]


def test_a_graph_that_calls_a_new_kernel_compiles_and_runs(library: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(library), "MAAS_RT_CHECK": "1"}
    script = ROOT / "tests" / "compiler" / "_toy_kernel.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    # The same file where the library has no such kernel.
    with pytest.raises(maas_rt.Error, match="needs the kernel contract 'scaled_add_f32'.*use a newer one"):
        maas_rt.load(done.stdout)


@pytest.mark.parametrize(
    ("recipe", "files", "outside"),
    [
        ("pass", ["compiler/passes/drop_abs.py"], ["compiler/passes/__init__.py"]),
        ("operator", [], ["compiler/importers/onnx/ops/elementwise.py", "compiler/importers/torch/ops/activation.py"]),
    ],
)
def test_a_compiler_with_a_recipe_works(tmp_path: Path, recipe: str, files: list[str], outside: list[str]) -> None:
    """A pass is its file and its place in the order; an operator a function in the module of its theme."""
    patch = RECIPES / f"{recipe}.patch"
    touched = [line.split()[-1][2:] for line in patch.read_text().splitlines() if line.startswith("diff --git")]
    assert sorted(touched) == sorted([*files, *outside])
    shutil.copytree(ROOT / "compiler", tmp_path / "compiler", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    shutil.copytree(Path(maas_rt.__file__).parent, tmp_path / "maas_rt", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "maas_rt" / "compiler").symlink_to(tmp_path / "compiler", target_is_directory=True)
    script = ROOT / "tests" / "compiler" / f"_toy_{recipe}.py"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MAAS_RT_CHECK": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_instruction_set_of_a_family_is_a_file_and_a_line(library: Path) -> None:
    """The kernel is listed first, as the best, and does what the reference does where the CPU has the set."""
    patch = (RECIPES / "isa.patch").read_text()
    touched = [line.split()[-1][2:] for line in patch.splitlines() if line.startswith("diff --git")]
    assert touched == ["csrc/kernels/resize/kernels.inc", "csrc/kernels/resize/resize_avx512.cc"]
    script = ROOT / "tests" / "compiler" / "_toy_isa.py"
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]

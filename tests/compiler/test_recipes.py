"""CONTRIBUTING's recipes, each as the patch that follows it: a kernel family is its folder and a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import maas_rt

ROOT = Path(__file__).parents[2]
PATCH = ROOT / "tests" / "data" / "recipes" / "kernel.patch"
BUILD = ROOT / "build" / "editable"
OBJECTS = BUILD / "CMakeFiles" / "maas_rt_objects.dir"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with the patch: what the patch touches is compiled, all other objects are those of the editable build."""
    if not (OBJECTS / "kernels").is_dir() or shutil.which("c++") is None:
        pytest.skip(f"needs a C++ compiler and the objects of an editable install, which are not under {OBJECTS}")
    folder = tmp_path_factory.mktemp("recipe")
    shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=shutil.ignore_patterns("tests", "python", "examples"))
    subprocess.run(["git", "apply", str(PATCH)], cwd=folder, check=True)
    new = []
    for source in [folder / "csrc/kernels/registry.cc", *(folder / "csrc/kernels/scaled_add").glob("*.cc")]:
        new.append(folder / f"{source.stem}.o")
        flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
        command = ["c++", *flags, f"-I{folder}/csrc", f"-I{folder}/csrc/include", "-c", str(source), "-o", str(new[-1])]
        subprocess.run(command, check=True)
    built = [path.relative_to(ROOT / "csrc") for path in (ROOT / "csrc").rglob("*.cc")]
    objects = [OBJECTS / f"{path}.o" for path in built if path != Path("kernels/registry.cc")]
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

"""The C example, built with find_package against an installed library, classifies without Python on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import maas_rt
from tests import _tiny

ROOT = Path(__file__).parents[2]
TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(*command: str | Path) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=TOOLS)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_the_example_builds_against_an_installed_library_and_classifies(tmp_path: Path) -> None:
    build, prefix = ROOT / "build" / "editable", tmp_path / "prefix"
    if not (build / "CMakeCache.txt").exists():  # what an editable install leaves; without one: its own build
        build = tmp_path / "library"
        run("cmake", "-S", ROOT / "csrc", "-B", build, "-DCMAKE_BUILD_TYPE=Release")
        run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", prefix)
    example = tmp_path / "example"
    run("cmake", "-S", ROOT / "csrc" / "examples", "-B", example, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", example)

    model, image = tmp_path / "model.mrt", tmp_path / "input.f32"
    model.write_bytes(_tiny.mlp("batch"))
    x = np.random.default_rng(0).standard_normal((1, 16), np.float32)
    x.tofile(image)
    printed = run(example / "classify", model, image, "--top", "1")
    best = int(maas_rt.load(model)(x).argmax())
    assert str(best) in printed.split(), printed

    damaged = tmp_path / "damaged.mrt"
    damaged.write_bytes(model.read_bytes()[:-1])
    result = subprocess.run([example / "classify", damaged, image], capture_output=True, text=True)
    assert result.returncode == 1
    assert "truncated" in result.stderr
    assert result.stderr.count("\n") == 1

"""The C example, built against an installed library, shared and static, classifies without Python on the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import maas_rt
from tests import _tiny

ROOT = Path(__file__).parents[2]
TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
SOURCE = ROOT / "csrc" / "examples" / "classify.c"


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, env={**TOOLS, **environment})
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed of a build of both libraries: the one of an editable install; without it, one of its own."""
    build, prefix = ROOT / "build" / "editable", tmp_path_factory.mktemp("installed") / "prefix"
    if not (build / "CMakeCache.txt").exists():
        build = prefix.with_name("library")
    run("cmake", "-S", ROOT / "csrc", "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DMAAS_RT_BUILD_STATIC=ON")
    run("cmake", "--build", build, "--target", "maas_rt", "maas_rt_static")
    run("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def archive(prefix: Path) -> Path:
    (found,) = prefix.rglob("libmaas_rt.a")
    return found


def pkg_config(prefix: Path, *arguments: str) -> list[str]:
    (folder,) = prefix.rglob("pkgconfig")
    return run("pkg-config", *arguments, "maas_rt", PKG_CONFIG_PATH=str(folder)).split()


def needed(program: Path) -> list[str]:
    return re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", program))


def check_classifies(program: Path, folder: Path) -> None:
    model, image = folder / "model.mrt", folder / "input.f32"
    model.write_bytes(_tiny.mlp("batch"))
    x = np.random.default_rng(0).standard_normal((1, 16), np.float32)
    x.tofile(image)
    printed = run(program, model, image, "--top", "1")
    assert str(int(maas_rt.load(model)(x).argmax())) in printed.split(), printed

    damaged = folder / "damaged.mrt"
    damaged.write_bytes(model.read_bytes()[:-1])
    result = subprocess.run([program, damaged, image], capture_output=True, text=True)
    assert result.returncode == 1
    assert "truncated" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_example_builds_against_an_installed_library_and_classifies(prefix: Path, tmp_path: Path) -> None:
    example = tmp_path / "example"
    run("cmake", "-S", SOURCE.parent, "-B", example, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", example)
    assert "libmaas_rt.so" in needed(example / "classify")
    check_classifies(example / "classify", tmp_path)


def test_a_c_project_finds_the_static_library_with_find_package(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(consumer LANGUAGES C)\nfind_package(maas_rt REQUIRED)\n"
        f"add_executable(classify {SOURCE})\ntarget_link_libraries(classify PRIVATE maas_rt::maas_rt_static)\n"
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path / "build")
    assert "libmaas_rt.so" not in needed(tmp_path / "build" / "classify")
    check_classifies(tmp_path / "build" / "classify", tmp_path)


def test_pkg_config_tells_what_a_static_program_is_linked_with(prefix: Path, tmp_path: Path) -> None:
    program = tmp_path / "classify"
    flags = pkg_config(prefix, "--static", "--cflags", "--libs")
    run("cc", "-O2", "-static", "-o", program, SOURCE, *flags)
    assert needed(program) == []
    check_classifies(program, tmp_path)


def test_the_static_library_shows_what_the_shared_one_shows(prefix: Path, archive: Path) -> None:
    (shared,) = prefix.rglob("libmaas_rt.so")

    def names(*arguments: str | Path) -> set[str]:
        return {line.split()[-1] for line in run("nm", "--defined-only", *arguments).splitlines() if " " in line}

    shown = names("-g", archive)
    assert shown == names("-D", shared)
    assert all(name.startswith("mrt_") for name in shown)


def test_a_host_may_have_symbols_of_the_same_names(prefix: Path, archive: Path, tmp_path: Path) -> None:
    local = re.findall(r" [tT] (_ZN3mrt\w+)$", run("nm", archive), flags=re.MULTILINE)
    assert len(local) > 100
    host, program = tmp_path / "host.c", tmp_path / "classify"
    host.write_text("".join(f"int {name}(void) {{ __builtin_trap(); }}\n" for name in sorted(set(local))))
    run("cc", "-o", program, SOURCE, host, *pkg_config(prefix, "--cflags"), archive, "-lstdc++", "-lm")
    check_classifies(program, tmp_path)

"""CPUs that have the portable kernels alone, and no generated code: the C++ tests under qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cross._tools import FULL

ROOT = Path(__file__).parents[2]
COMPILERS = {"armv7": "arm-linux-gnueabihf", "riscv64": "riscv64-linux-gnu"}


@pytest.mark.skipif(not FULL, reason="builds the library twice: make test-cross")
@pytest.mark.parametrize("machine", COMPILERS)
def test_the_library_passes_its_tests(machine: str) -> None:
    compiler, qemu = f"{COMPILERS[machine]}-g++", "arm" if machine == "armv7" else machine
    if shutil.which(compiler) is None or not (shutil.which(f"qemu-{qemu}-static") or shutil.which(f"qemu-{qemu}")):
        pytest.skip(f"needs a cross compiler and qemu: apt-get install g++-{COMPILERS[machine]} qemu-user-static")
    build = ROOT / "build" / machine
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'csrc' / 'cmake' / machine}.cmake"
    for command in (
        ["cmake", "-S", str(ROOT / "csrc"), "-B", str(build), toolchain, "-DMAAS_RT_BUILD_TESTS=ON"],
        ["cmake", "--build", str(build), "--parallel", str(os.cpu_count())],
        ["ctest", "--test-dir", str(build), "--timeout", "120"],
    ):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, (result.stdout + result.stderr)[-2000:]
    assert "100% tests passed" in result.stdout

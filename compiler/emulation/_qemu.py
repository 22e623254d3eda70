"""Where qemu-user is, and the program that runs the library under it (csrc/tools/remote.c)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maas_rt import _version
from maas_rt._errors import CompileError

__all__ = ["CPUS", "Emulator", "find_emulator"]

# What runs the code of a target, and no more than that: by the name of the target, as qemu names CPUs.
CPUS = {"aarch64": "cortex-a53", "aarch64-dotprod": "neoverse-n1", "aarch64-i8mm": "max"}

FOLDER_VARIABLE = "MAAS_RT_AARCH64"  # the folder of maas_rt_remote and libmaas_rt.so
_PROGRAM = "maas_rt_remote"
_LIBC = Path("/usr/aarch64-linux-gnu")  # where Debian's cross compilers have it
_BUILD = "cmake -S csrc -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake && cmake --build build/aarch64 --target maas_rt_remote"


@dataclass(frozen=True)
class Emulator:
    """qemu-user, and an AArch64 build of the library."""

    qemu: str
    program: Path

    def command(self, cpu: str) -> list[str]:
        """The line that starts the program on such a CPU (`qemu-aarch64 -cpu help` lists them)."""
        root: Sequence[str] = [] if "QEMU_LD_PREFIX" in os.environ or not _LIBC.is_dir() else ["-L", str(_LIBC)]
        return [self.qemu, "-cpu", cpu, *root, str(self.program)]


def find_emulator() -> Emulator:
    """Raises CompileError, with what is to be installed or built, where one of both is missing."""
    # Debian's qemu with plugins ends in an assertion where a program forks; its static one has none.
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        raise CompileError(
            "qemu-user is not installed, which runs code for AArch64 here (Debian and Ubuntu: apt install qemu-user-static)"
        )
    folders = _folders()
    for folder in folders:
        if (folder / _PROGRAM).is_file():
            return Emulator(qemu, folder / _PROGRAM)
    raise CompileError(
        f"{_PROGRAM}, the library for AArch64 that runs under qemu, is not in {' or '.join(map(str, folders))}: build it in a clone "
        f"({_BUILD}; Debian and Ubuntu: apt install g++-aarch64-linux-gnu), and name its folder in {FOLDER_VARIABLE} if it is another"
    )


def _folders() -> list[Path]:
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return [Path(named)]
    package = Path(_version.__file__).resolve().parent
    clone = package.parent / "build" / "aarch64"
    return [package / "aarch64", *([clone] if (package.parent / "csrc").is_dir() else [])]

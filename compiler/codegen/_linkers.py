"""Which program links a code section: by the machine that it is for."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from maas_rt._errors import CompileError

__all__ = ["Linker", "find_linker", "find_objcopy"]

_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Linker:
    """`command` is a C compiler that passes flags on and knows where its C library is, or (`is_plain`) lld itself, which has none."""

    command: tuple[str, ...]
    is_plain: bool = False

    @property
    def name(self) -> str:
        """For a sentence."""
        program = os.path.basename(self.command[0])
        return "ziglang's ld.lld" if "ziglang" in self.command else program

    def line(
        self,
        flags: Sequence[str],
        out: str,
        files: Sequence[str],
        libraries: Sequence[str],
        relocatable: bool = False,
    ) -> list[str]:
        """The command that makes a shared object of `files`, which needs `libraries` (-l... or files), or a relocatable one."""
        kind = "-r" if relocatable else "-shared"
        if self.is_plain:
            own = [part for flag in flags for part in flag.split(",", 1)]
            return [*self.command, kind, *own, "-o", out, *files, *libraries]
        driver = [kind, "-nostdlib", *(f"-Wl,{flag}" for flag in flags)]
        return [*self.command, *driver, "-o", out, *files, *libraries]


def find_linker(machine: str) -> Linker:
    """For this machine the system's C compiler: $CC, cc, gcc or clang. For another what CC_<machine> names, a cross gcc, lld in ziglang from
    PyPI, or lld. Raises CompileError if there is none."""
    return _system_compiler() if _is_here(machine) else _cross_linker(machine)


def find_objcopy(machine: str) -> str:
    """The objcopy for a machine's objects: what OBJCOPY_<machine> names, the binutils', or LLVM's. Raises CompileError if there is none."""
    own = [] if _is_here(machine) else [f"{machine}-linux-gnu-objcopy"]
    for name in (os.environ.get(f"OBJCOPY_{machine}"), *(own or ["objcopy"]), "llvm-objcopy"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    package = "binutils" if not own else f"binutils-{machine.replace('_', '-')}-linux-gnu"
    raise CompileError(
        f"no objcopy for {machine} was found, which hides all of an object file but its table: install one (Debian and Ubuntu: apt "
        f"install {package}, or llvm) or name it in OBJCOPY_{machine}"
    )


def _is_here(machine: str) -> bool:
    here = platform.machine().lower()
    return machine == _ALIASES.get(here, here)


def _system_compiler() -> Linker:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path is not None:
            return Linker((path,))
    raise CompileError(
        "no C compiler was found, and a compile links its code section with one: install it (Debian and Ubuntu: "
        "apt install gcc libc6-dev) or name it in CC"
    )


def _cross_linker(machine: str) -> Linker:
    variable = f"CC_{machine}"
    named = shlex.split(os.environ.get(variable, ""))
    if named:
        path = shutil.which(named[0])
        if path is None:
            raise CompileError(
                f"{variable} is {os.environ[variable]!r}, and there is no such program: name a C compiler for {machine} in it, or unset it"
            )
        return Linker((path, *named[1:]))
    cross = shutil.which(f"{machine}-linux-gnu-gcc")
    if cross is not None:
        return Linker((cross,))
    if find_spec("ziglang") is not None:
        return Linker((sys.executable, "-m", "ziglang", "ld.lld"), is_plain=True)
    lld = shutil.which("ld.lld")
    if lld is not None:
        return Linker((lld,), is_plain=True)
    raise CompileError(
        f"nothing here links code for {machine}: install a cross compiler (Debian and Ubuntu: apt install "
        f"gcc-{machine.replace('_', '-')}-linux-gnu), lld (pip install ziglang, or apt install lld), or name a C compiler for it in {variable}"
    )

"""What tests for AArch64 need: qemu-user and the library built for it; where it is missing, what to type."""

from __future__ import annotations

import os
import shutil

from maas_rt.compiler.emulation import find_emulator

from maas_rt import CompileError

APT = "apt-get install qemu-user-static g++-aarch64-linux-gnu"
FULL = os.environ.get("MAAS_RT_CROSS") == "full"  # `make test-cross`; else a sample


def missing() -> str | None:
    """The reason to skip, None where everything is there."""
    if shutil.which("qemu-aarch64-static") is None and shutil.which("qemu-aarch64") is None:
        return f"needs qemu-user: {APT}"
    try:
        find_emulator()
    except CompileError:
        if shutil.which("aarch64-linux-gnu-g++") is None:
            return f"needs a cross compiler: {APT}"
        return "needs the library for AArch64: make build/aarch64/maas_rt_remote"
    return None

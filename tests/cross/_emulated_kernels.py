"""A pytest plugin: the kernels that tests call are those of the library for AArch64, on the CPU that MAAS_RT_EMULATED_CPU names.

    MAAS_RT_EMULATED_CPU=cortex-a53 python -m pytest -p tests.cross._emulated_kernels tests/kernels

`maas_rt._kernels` stays as it is; what it asks of the compiled module goes to a process under qemu.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from maas_rt.compiler.emulation import Remote, find_emulator

import maas_rt._native as native
from maas_rt import _kernels


class Module:
    """What `maas_rt._kernels` uses of `maas_rt._native`."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._registry = remote.registry()
        self.calls = 0
        self.cpu_count = native.cpu_count

    def kernels_json(self) -> str:
        return json.dumps(self._registry)

    def cpu_level(self) -> str:
        return str(self._registry["level"])

    def cpu_isa(self) -> str:
        return str(self._registry["isas"][0])

    def kernel_pack(self, contract: str, packing: str, weight: Any, attrs: Mapping[str, Any]) -> bytes:
        return self._remote.pack(contract, packing, weight, attrs)

    def kernel_run(
        self,
        contract: str,
        isa: str | None,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        attrs: Mapping[str, Any],
        threads: int,
    ) -> None:
        self.calls += 1
        shapes = [(each.shape, each.dtype) for each in outputs]
        for out, result in zip(outputs, self._remote.run(contract, inputs, shapes, attrs, isa, threads)):
            out[...] = result


MODULE = pytest.StashKey[Module]()


def pytest_configure(config: pytest.Config) -> None:
    remote = Remote(find_emulator().command(os.environ["MAAS_RT_EMULATED_CPU"]))
    config.add_cleanup(remote.close)
    config.stash[MODULE] = _kernels._native = Module(remote)  # type: ignore[attr-defined, assignment]


def pytest_report_header(config: pytest.Config) -> str:
    module = config.stash[MODULE]
    return f"kernels: {module.cpu_level()}, {', '.join(module._registry['isas'])}, under qemu"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """That the emulated library was asked."""
    terminalreporter.write_line(f"{config.stash[MODULE].calls} kernels ran under qemu")

"""What stands in the way of an emulated check is one sentence, before any work; and a process that ends is told of."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.emulation import CPUS, Remote, find_emulator

from maas_rt import CompileError, InvalidArgumentError, compiler

FOREIGN = "aarch64" if os.uname().machine == "x86_64" else "x86-64"
pytestmark = pytest.mark.skipif(FOREIGN != "aarch64", reason="code for AArch64 is emulated elsewhere: runs on x86-64")


def compiled(**options: Any) -> Any:
    return compiler.compile(torch.nn.Linear(2, 2), {"x": torch.ones(1, 2)}, **options)


def executable(path: Path, script: str = "") -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with nothing on it, and no library for AArch64 beside the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MAAS_RT_AARCH64", str(tmp_path / "none"))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "native"}, "the targets are x86-64-.*: name one of aarch64, .*or leave it out"),
        ({"target": "aarch64", "verify": False}, "verify=False .* leaves it out: give one of them"),
    ],
)
def test_a_wish_that_contradicts_itself(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        compiled(verify_with="qemu", **options)


def test_an_emulator_that_is_not_known() -> None:
    with pytest.raises(InvalidArgumentError, match="verify_with is 'gem5', expected \"qemu\""):
        compiled(verify_with="gem5", target="aarch64")


def test_no_qemu_is_one_sentence(empty: Path) -> None:
    with pytest.raises(CompileError, match="qemu-user is not installed.*apt install qemu-user-static") as caught:
        compiled(verify_with="qemu", target="aarch64")
    assert "\n" not in str(caught.value)


def test_no_library_for_aarch64_is_one_sentence(empty: Path) -> None:
    executable(empty / "qemu-aarch64-static")
    with pytest.raises(CompileError, match="is not in .*none: build it .*cmake -S csrc.*MAAS_RT_AARCH64") as caught:
        compiled(verify_with="qemu", target="aarch64")
    assert "\n" not in str(caught.value)


def test_the_folder_that_is_named_is_the_one(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(empty / "qemu-aarch64")
    executable(empty / "maas_rt_remote")
    monkeypatch.setenv("MAAS_RT_AARCH64", str(empty))
    monkeypatch.setenv("QEMU_LD_PREFIX", "/somewhere")  # which qemu reads itself
    wanted = [str(empty / "qemu-aarch64"), "-cpu", CPUS["aarch64"], str(empty / "maas_rt_remote")]
    assert find_emulator().command(CPUS["aarch64"]) == wanted


TEXT = "import struct, sys; text = lambda s: struct.pack('<I', len(s)) + s; "


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no such CPU\\nusage')", r"ended \(status 1\): usage"),
        ("import os; os.abort()", r"ended \(SIGABRT\): it said nothing"),
        (
            "import sys; sys.stdin.buffer.read(4); sys.stdout.buffer.write(b'\\7\\0'); sys.exit(3)",
            r"ended \(status 3\)",
        ),
    ],
)
def test_a_process_that_ends(program: str, words: str) -> None:
    with Remote([sys.executable, "-c", program]) as remote, pytest.raises(CompileError, match=words):
        remote.registry()


def test_an_error_of_the_library_is_its_exception() -> None:
    program = TEXT + "sys.stdout.buffer.write(text(b'MRT_ERROR_INVALID_ARGUMENT') + text(b'no such contract'))"
    with (
        Remote([sys.executable, "-c", program]) as remote,
        pytest.raises(InvalidArgumentError, match="no such contract"),
    ):
        remote.run("gemm", [], [])


def test_a_tensor_of_another_type_is_refused() -> None:
    tensor = struct.pack("<iBBqQ", 1, 2, 64, 1, 8) + b"12345678"
    program = TEXT + f"sys.stdout.buffer.write(text(b'MRT_OK') + text(b'') + {tensor!r})"
    with (
        Remote([sys.executable, "-c", program]) as remote,
        pytest.raises(CompileError, match="64 bits, expected float32"),
    ):
        remote.run("gemm", [np.ones(1)], [((1,), np.float32)])

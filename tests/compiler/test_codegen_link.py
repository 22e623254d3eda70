"""Code sections as files: what they need, what they offer, that they are the same every time, and the missing linker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from maas_rt.compiler.codegen import build_code, native_level, resolve_targets, schedule_function
from maas_rt.compiler.codegen._elf import dynamic_symbols
from maas_rt.compiler.codegen._link import LOADER_VARIABLES
from tvm import te, topi

from maas_rt import CompileError, InvalidArgumentError


def _functions() -> dict[str, Any]:
    x = te.placeholder((300, 1000), "float32", name="x")
    h = te.placeholder((33, 100), "float16", name="h")
    return {
        "gelu": schedule_function(te.create_prim_func([x, topi.multiply(x, topi.erf(x))])),
        "norm": schedule_function(te.create_prim_func([x, topi.nn.softmax(x, -1)])),
        "half": schedule_function(te.create_prim_func([h, topi.exp(topi.add(h, h))])),
        "sine": schedule_function(te.create_prim_func([x, topi.sin(x)])),
    }


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    functions = _functions()
    return {name: build_code(functions, resolve_targets(name)[0]) for name in ("x86-64-v3", "x86-64-v2", "x86-64")}


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2", "x86-64"])
def test_needs_libc_and_libm_only(images: dict[str, bytes], target: str, tmp_path: Path) -> None:
    path = tmp_path / "code.so"
    path.write_bytes(images[target])
    listed = subprocess.run(["nm", "-D", "-u", str(path)], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    assert names == set(dynamic_symbols(images[target]).undefined)
    assert names <= {"sinf", "memcpy", "memset", "memmove", "floorf", "rintf", "nearbyintf"}, names
    needed = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"NEEDED\s+(\S+)", needed)) <= {"libc.so.6", "libm.so.6"}


def test_offers_its_functions_and_the_loaders_variables(images: dict[str, bytes]) -> None:
    defined = set(dynamic_symbols(images["x86-64-v3"]).defined)
    functions = {"__tvm_ffi_gelu", "__tvm_ffi_norm", "__tvm_ffi_half", "__tvm_ffi_sine"}
    assert functions <= defined
    assert "__mrt_error_set_raised" in defined
    assert defined <= functions | set(LOADER_VARIABLES)


def test_same_input_same_bytes_and_no_paths(images: dict[str, bytes]) -> None:
    again = build_code(_functions(), resolve_targets("x86-64-v3")[0])
    assert again == images["x86-64-v3"]
    assert b"/tmp" not in again
    assert str(Path.cwd()).encode() not in again


def test_levels_without_avx_hold_no_avx_instruction(images: dict[str, bytes], tmp_path: Path) -> None:
    """Every AVX instruction is VEX-coded and its mnemonic begins with v; v3 shows that the search would find them."""
    found = {}
    for target, image in images.items():
        path = tmp_path / f"{target}.so"
        path.write_bytes(image)
        text = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
        ).stdout
        found[target] = [
            line
            for line in text.splitlines()
            if re.search(r":\s+v[a-z0-9]+\s", line) and not re.search(r"\sver[rw]\s", line)
        ]
    assert len(found["x86-64-v3"]) > 100
    assert any("%ymm" in line for line in found["x86-64-v3"])
    assert not found["x86-64-v2"], found["x86-64-v2"][:3]
    assert not found["x86-64"], found["x86-64"][:3]


LOAD = """
import ctypes, sys
{first}
lib = ctypes.CDLL(sys.argv[1], mode=0x2)
assert lib.__tvm_ffi_gelu
variable = ctypes.c_void_p.in_dll(lib, "__mrt_error_set_raised")
raised = []
HOOK = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int)
hook = HOOK(lambda kind, parts, count: raised.append(b"".join(parts[i] for i in range(count))))
variable.value = ctypes.cast(hook, ctypes.c_void_p).value
assert lib.__tvm_ffi_gelu(None, None, 0, None) != 0
assert raised and b"arguments" in raised[0], raised
assert ("tvm" in sys.modules) == {tvm}
"""


@pytest.mark.parametrize("first", ["", "import tvm"])
def test_loads_without_tvm_and_after_it(images: dict[str, bytes], tmp_path: Path, first: str) -> None:
    path = tmp_path / "code.so"
    path.write_bytes(images[native_level()])
    script = textwrap.dedent(LOAD).format(first=first, tvm=bool(first))
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_missing_linker_is_one_sentence_with_the_apt_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert shutil.which("cc") is None
    with pytest.raises(CompileError, match="apt install gcc") as caught:
        build_code({"sine": _functions()["sine"]}, resolve_targets("x86-64-v2")[0])
    assert "\n" not in str(caught.value)


def test_a_linker_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'ld: cannot find -lc' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(CompileError, match="cannot find -lc") as caught:
        build_code({"sine": _functions()["sine"]}, resolve_targets("x86-64-v2")[0])
    assert "\n" not in str(caught.value)


def test_targets_by_name() -> None:
    assert [spec.name for spec in resolve_targets("x86-64-v2,native")][-1] == "x86-64-v2"
    assert [spec.name for spec in resolve_targets(["x86-64", "x86-64-v3"])] == ["x86-64-v3", "x86-64"]
    assert resolve_targets("native")[0].name == native_level()
    with pytest.raises(InvalidArgumentError, match="x86-64-v9"):
        resolve_targets("x86-64-v9")

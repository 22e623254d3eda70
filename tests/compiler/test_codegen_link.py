"""Code sections as files: what they need, what they offer, that they are the same every time, and the missing linker."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from maas_rt.compiler.codegen import (
    TARGETS,
    _link,
    _linkers,
    _targets,
    build_code,
    native_level,
    resolve_targets,
    runs_on_this_cpu,
    schedule_function,
)
from maas_rt.compiler.codegen._elf import dynamic_symbols, machine_of
from maas_rt.compiler.codegen._link import LOADER_VARIABLES
from maas_rt.compiler.codegen._linkers import find_linker
from tvm import te, topi

from maas_rt import CompileError, InvalidArgumentError
from maas_rt._kernels import cpu_level


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
        find_linker(MACHINE)
    assert "\n" not in str(caught.value)


def test_a_linker_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", str(program(tmp_path / "broken-cc", "echo 'ld: cannot find -lc' >&2; exit 1")))
    with pytest.raises(CompileError, match="cannot find -lc") as caught:
        build_code({"sine": _functions()["sine"]}, resolve_targets("x86-64-v2")[0])
    assert "\n" not in str(caught.value)


def test_targets_by_name() -> None:
    assert [spec.name for spec in resolve_targets("x86-64-v2,native")][-1] == "x86-64-v2"
    assert [spec.name for spec in resolve_targets(["x86-64", "x86-64-v3"])] == ["x86-64-v3", "x86-64"]
    several = resolve_targets("aarch64, x86-64-v3,aarch64-i8mm,aarch64")
    assert [spec.name for spec in several] == ["x86-64-v3", "aarch64-i8mm", "aarch64"]
    assert resolve_targets("native")[0].name == native_level() == cpu_level()
    with pytest.raises(InvalidArgumentError, match="x86-64-v9.*aarch64-dotprod"):
        resolve_targets("x86-64-v9")


def test_native_is_what_the_library_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_targets, "cpu_level", lambda: "aarch64-dotprod")
    assert resolve_targets("native")[0].machine == "aarch64"
    assert [name for name in TARGETS if runs_on_this_cpu(name)] == ["aarch64-dotprod", "aarch64"]
    monkeypatch.setattr(_targets, "cpu_level", lambda: "unknown")
    assert not any(runs_on_this_cpu(name) for name in TARGETS)
    with pytest.raises(InvalidArgumentError, match="no name on this machine: give one of x86-64-v3"):
        resolve_targets("native")


# ---- for another machine ----

MACHINE = platform.machine()
FOREIGN = "aarch64" if MACHINE == "x86_64" else "x86_64"
TARGET = {"aarch64": "aarch64", "x86_64": "x86-64"}


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def without_linkers(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Nothing that links for another machine, but for what a test puts into `path`."""
    monkeypatch.delenv(f"CC_{FOREIGN}", raising=False)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(_linkers, "find_spec", lambda name: None)


def test_linkers_for_another_machine_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_linkers(monkeypatch, tmp_path)
    with pytest.raises(
        CompileError, match=f"links code for {FOREIGN}: .*apt install gcc-.*ziglang.*CC_{FOREIGN}$"
    ) as caught:
        find_linker(FOREIGN)
    assert "\n" not in str(caught.value)
    lld = program(tmp_path / "ld.lld", "")
    assert find_linker(FOREIGN) == _linkers.Linker((str(lld),), is_plain=True)
    monkeypatch.setattr(_linkers, "find_spec", lambda name: object())
    assert find_linker(FOREIGN).command[1:] == ("-m", "ziglang", "ld.lld")
    gcc = program(tmp_path / f"{FOREIGN}-linux-gnu-gcc", "")
    assert find_linker(FOREIGN) == _linkers.Linker((str(gcc),))
    own = program(tmp_path / "my-cc", "")
    monkeypatch.setenv(f"CC_{FOREIGN}", "my-cc --sysroot '/a b'")
    assert find_linker(FOREIGN) == _linkers.Linker((str(own), "--sysroot", "/a b"))
    monkeypatch.setenv(f"CC_{FOREIGN}", "no-such-cc")
    with pytest.raises(CompileError, match=f"CC_{FOREIGN} is 'no-such-cc', and there is no such program"):
        find_linker(FOREIGN)


LINKERS = {
    "gcc": f"{FOREIGN}-linux-gnu-gcc" if shutil.which(f"{FOREIGN}-linux-gnu-gcc") else None,
    "lld": "ld.lld" if shutil.which("ld.lld") else None,
    "ziglang": "ziglang" if find_spec("ziglang") else None,
}
HOW = {
    "gcc": f"apt-get install gcc-{FOREIGN.replace('_', '-')}-linux-gnu",
    "lld": "apt-get install lld",
    "ziglang": "pip install ziglang",
}


@pytest.mark.parametrize("kind", LINKERS)
def test_code_for_another_machine_needs_libc_and_libm_only(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if LINKERS[kind] is None:
        pytest.skip(f"needs {kind} for {FOREIGN}: {HOW[kind]}")
    command = (sys.executable, "-m", "ziglang", "ld.lld") if kind == "ziglang" else (shutil.which(str(LINKERS[kind])),)
    monkeypatch.setattr(_link, "find_linker", lambda machine: _linkers.Linker(command, is_plain=kind != "gcc"))
    functions = _functions()
    for name in [name for name, spec in TARGETS.items() if spec.machine == FOREIGN]:
        image = build_code(functions, resolve_targets(name)[0])
        assert machine_of(image) == FOREIGN
        found = dynamic_symbols(image)
        assert found.undefined <= {"sinf", "memcpy", "memset", "memmove"}
        assert {f"__tvm_ffi_{each}" for each in functions} | {"__mrt_error_set_raised"} <= found.defined
        assert found.defined <= {f"__tvm_ffi_{each}" for each in functions} | set(LOADER_VARIABLES)
        assert b"libm.so.6" in image and b"/tmp" not in image
    assert build_code(functions, resolve_targets(name)[0]) == image


def link_with(monkeypatch: pytest.MonkeyPatch, path: Path, script: str, target: str = TARGET[FOREIGN]) -> str:
    """The sentence of a compile whose linker is this script; it leaves nothing behind."""
    (path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path / "temporary"))
    monkeypatch.setenv(f"CC_{FOREIGN}", str(program(path / "foreign-cc", script)))
    with pytest.raises(CompileError) as caught:
        build_code({"sine": _functions()["sine"]}, resolve_targets(target)[0])
    assert not list((path / "temporary").iterdir())
    assert "\n" not in str(caught.value) and str(path / "temporary") not in str(caught.value)
    return str(caught.value)


WRITE = 'while [ "$1" != -o ]; do shift; done; '


def test_a_linker_that_fails_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = WRITE + 'head -c 100 /dev/zero > "$2"; echo "$PWD/code0.o: error $(printf %1000s)x" >&2; exit 1'
    said = link_with(monkeypatch, tmp_path, script)
    assert said.startswith("foreign-cc could not link the generated code (code0.o: error") and len(said) < 500


def test_a_linker_for_the_wrong_machine_is_told_of(
    images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if MACHINE != "x86_64":
        pytest.skip("plants code for x86-64 where that is foreign to the target: runs on x86-64")
    (tmp_path / "own.so").write_bytes(images["x86-64-v3"])
    said = link_with(monkeypatch, tmp_path, WRITE + f'cp {tmp_path}/own.so "$2"')
    assert "what foreign-cc linked for aarch64 is for x86_64" in said and "CC_aarch64" in said


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda image: image[:4] + b"\x01" + image[5:], "not a 64-bit little-endian ELF file"),
        (lambda image: image[:5] + b"\x02" + image[6:], "not a 64-bit little-endian ELF file"),
        (lambda image: b"#!/bin/sh", "not a 64-bit little-endian ELF file"),
        (lambda image: image[:18] + b"\xf3\x00" + image[20:], "is for machine 243"),
    ],
)
def test_what_is_linked_is_an_elf_file_of_the_target(
    images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, edit: Any, words: str
) -> None:
    (tmp_path / "own.so").write_bytes(edit(images["x86-64-v3"]))
    assert words in link_with(monkeypatch, tmp_path, WRITE + f'cp {tmp_path}/own.so "$2"')

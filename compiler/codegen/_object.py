"""Links object files into one for hosts without dlopen: generated functions behind a table that is its only symbol.

The table is maas_rt.h's mrt_code_table; the file's object section holds the same 32 bytes as the table, so that neither is taken for
another's.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ._link import LOADER_VARIABLES, STUB, assembled, linked, run_tool
from ._linkers import find_linker, find_objcopy
from ._targets import TargetSpec

__all__ = ["LinkableCode", "link_object", "table_symbol"]

_VERSION = 1  # MRT_CODE_TABLE_VERSION
_DEFINED_BY_STUB = ("__mrt_error_set_raised", "__mrt_stopped")


@dataclass(frozen=True)
class LinkableCode:
    """`image` is a relocatable ELF object that defines `symbol`, an mrt_code_table; `model` are the 32 bytes that tell it from others."""

    image: bytes
    symbol: str
    model: bytes


def table_symbol(name: str, target: str) -> str:
    """The table's name in C: "mrt_code_<model>_<target>", with _ for what an identifier may not hold."""
    return "mrt_code_" + re.sub(r"[^A-Za-z0-9]", "_", f"{name}_{target}")


def link_object(objects: Sequence[Path], symbols: list[str], target: TargetSpec, name: str) -> LinkableCode:
    """The objects, which define `__tvm_ffi_<symbol>` for each of `symbols`, as one with the table of model `name`.

    Identical input gives identical bytes. Raises CompileError if there is no linker or no objcopy for the target, or if one fails.
    """
    linker, objcopy = find_linker(target.machine), find_objcopy(target.machine)
    digest = hashlib.sha256(f"maas_rt object {_VERSION} {target.name}".encode())
    for each in objects:
        digest.update(each.read_bytes())
    model, symbol = digest.digest(), table_symbol(name, target.name)
    with tempfile.TemporaryDirectory(prefix="maas-rt-link-") as folder:
        table = assembled(STUB + _table(symbol, symbols, target.name, model), target, Path(folder) / "table.o")
        files = [table.name, *(str(each.resolve()) for each in objects)]
        linked(linker, [], "whole.o", files, [], Path(folder), relocatable=True)
        run_tool(
            [objcopy, "--strip-unneeded", f"--keep-global-symbol={symbol}", "whole.o", "code.o"], "code.o", Path(folder)
        )
        return LinkableCode((Path(folder) / "code.o").read_bytes(), symbol, model)


def _table(symbol: str, names: Sequence[str], target: str, model: bytes) -> str:
    """The table in LLVM's IR, its functions in the order of their names' bytes."""
    lines, rows = [], []
    for number, name in enumerate(sorted(names, key=str.encode)):
        lines += [
            f"@n{number} = private constant {_text(name)}",
            f'declare i32 @"__tvm_ffi_{name}"(ptr, ptr, i32, ptr)',
        ]
        rows.append(f'{{ ptr, ptr }} {{ ptr @n{number}, ptr @"__tvm_ffi_{name}" }}')
    lines += [f"@{name} = extern_weak global ptr" for name in LOADER_VARIABLES if name not in _DEFINED_BY_STUB]
    host = ", ".join(f"ptr @{name}" for name in LOADER_VARIABLES)
    return "\n".join(
        [
            *lines,
            f"@functions = private constant [{len(rows)} x {{ ptr, ptr }}] [{', '.join(rows)}]",
            f"@target = private constant {_text(target)}",
            f"@model = private constant [{len(model)} x i8] {_bytes(model)}",
            f"@{symbol} = constant {{ i32, i32, ptr, ptr, ptr, [5 x ptr] }} {{ i32 {_VERSION}, i32 {len(rows)}, "
            f"ptr @target, ptr @model, ptr @functions, [5 x ptr] [{host}] }}",
            "",
        ]
    )


def _text(text: str) -> str:
    data = text.encode() + b"\0"
    return f"[{len(data)} x i8] {_bytes(data)}"


def _bytes(data: bytes) -> str:
    return 'c"' + "".join(f"\\{byte:02X}" for byte in data) + '"'

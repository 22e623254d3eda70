"""From scheduled PrimFuncs to one linked code section: TVM's lowering passes, LLVM once, the linker once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import tirx

from ._link import link_shared
from ._targets import TargetSpec

__all__ = ["build_code"]


def build_code(functions: Mapping[str, tirx.PrimFunc], target: TargetSpec) -> bytes:
    """The code section of `target` with one `__tvm_ffi_<name>` for each of `functions` (scheduled already)."""
    mod = tvm.IRModule({name: func.with_attr("global_symbol", name) for name, func in sorted(functions.items())})
    module = tirx.build(mod, target=target.to_tvm())
    with tempfile.TemporaryDirectory(prefix="maas-rt-code-") as folder:
        obj = Path(folder) / "code.o"
        module.write_to_file(str(obj), "o")
        return link_shared(obj, sorted(functions))

"""From scheduled PrimFuncs to one linked code section: TVM's lowering passes, LLVM once, the linker once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from maas_rt._errors import CompileError

from .._deep import heed
from ._hide import hide_arithmetic
from ._link import link_shared
from ._object import LinkableCode, link_object
from ._stops import with_stops
from ._targets import TargetSpec
from ._wrap import wrap_around

__all__ = ["build_code", "build_object"]

_FUNCTIONS_AT_A_TIME = 64  # functions that LLVM takes at a time, some seconds in which nothing interrupts it


def build_code(functions: Mapping[str, tirx.PrimFunc], target: TargetSpec) -> bytes:
    """The code section of `target` with one `__tvm_ffi_<name>` for each of `functions` (scheduled already)."""
    with tempfile.TemporaryDirectory(prefix="maas-rt-code-") as folder:
        return link_shared(_objects(functions, target, Path(folder)), sorted(functions), target)


def build_object(functions: Mapping[str, tirx.PrimFunc], target: TargetSpec, name: str) -> tuple[bytes, LinkableCode]:
    """That section, and of the same object code what is linked into a host: a file with a table of the functions, for the model `name`."""
    with tempfile.TemporaryDirectory(prefix="maas-rt-code-") as folder:
        objects, names = _objects(functions, target, Path(folder)), sorted(functions)
        return link_shared(objects, names, target), link_object(objects, names, target, name)


def _objects(functions: Mapping[str, tirx.PrimFunc], target: TargetSpec, folder: Path) -> list[Path]:
    names = sorted(functions)
    objects: list[Path] = []
    for first in range(0, len(names), _FUNCTIONS_AT_A_TIME):
        some = {name: functions[name] for name in names[first : first + _FUNCTIONS_AT_A_TIME]}
        heed()
        try:
            module = _to_llvm(some, target)
        except Exception as error:  # TVM raises what Python class its C++ named
            raise CompileError(_culprit(some, target, error)) from error
        heed()
        objects.append(folder / f"code{len(objects)}.o")
        module.write_to_file(str(objects[-1]), "o")
    return objects


def _to_llvm(functions: Mapping[str, tirx.PrimFunc], target: TargetSpec) -> Any:
    mod = tvm.IRModule(
        {
            name: wrap_around(with_stops(func)).with_attr("global_symbol", name)
            for name, func in sorted(functions.items())
        }
    )
    bound = target.to_tvm()
    mod = tirx.transform.BindTarget(bound.with_host(bound))(mod)
    with tvm.transform.PassContext(opt_level=3):
        mod = tvm.ir.transform.Sequential(_lowering())(mod)
        return tvm.get_global_func("target.build.llvm")(mod, bound)


def _culprit(functions: Mapping[str, tirx.PrimFunc], target: TargetSpec, error: Exception) -> str:
    """Which function cannot be built, and why, in one sentence."""
    names = sorted(functions)
    for name in names if len(names) > 1 else []:
        try:
            _to_llvm({name: functions[name]}, target)
        except Exception as alone:
            names, error = [name], alone
            break
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    return f"the generated function {', '.join(names)} cannot be built for {target.name} ({reason}): this operator is not supported yet"


def _lowering() -> list[tvm.ir.transform.Pass]:
    """From loops over buffers to what TVM's LLVM generator reads: the parts of its own pipeline that a CPU needs.

    StmtSimplify is not among them: it rewrites floats as if they were reals (x - ((x + c) - c) becomes 0), which breaks every
    rounding by a magic number. Indices were simplified when they were made."""
    passes = tirx.transform
    return [
        passes.ConvertSSA(),
        passes.BF16ComputeLegalize(),
        passes.VectorizeLoop(True),
        passes.UnrollLoop(),
        tvm.s_tir.transform.RewriteUnsafeSelect(),
        passes.FP8ComputeLegalize(),
        passes.VerifyMemory(),
        passes.AnnotateEntryFunc(),
        passes.SplitHostDevice(),
        passes.MakePackedAPI(),
        passes.FP8StorageLegalize(),
        passes.BF16StorageLegalize(),
        passes.LowerTVMBuiltin(),
        hide_arithmetic(),
        passes.LowerIntrin(),
    ]

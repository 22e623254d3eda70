"""What no kernel took becomes generated functions: TVM's own lowering and fusion, with views left as views."""

from __future__ import annotations

import tvm
from tvm import relax

__all__ = ["KEPT", "fuse", "legalize"]

# What plan/ reads itself: views (canonicalise spelled the others like this one), and sizes that the data decides.
KEPT = ["relax.reshape", "relax.shape_of", "relax.shape_to_tensor", "relax.tensor_to_shape"]


def legalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Operators -> call_tir."""
    mod = relax.transform.ConvertToDataflow(1)(mod) if _has_plain_blocks(mod) else mod
    return relax.transform.LegalizeOps(skip_ops=KEPT)(mod)


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Neighbouring call_tir -> one; kernel calls and views are opaque to it."""
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    mod = relax.transform.FuseOps()(mod)
    mod = relax.transform.FuseTIR()(mod)
    return relax.transform.DeadCodeElimination(["main"])(mod)


def _has_plain_blocks(mod: tvm.IRModule) -> bool:
    sequences = [func.body for _, func in mod.functions_items() if isinstance(func, relax.Function)]
    return any(not isinstance(block, relax.DataflowBlock) for body in sequences for block in body.blocks)

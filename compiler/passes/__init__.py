"""From an imported module to kernel calls and small generated functions: `lowering_passes` is the order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import tvm

from ._kernel_call import (
    AttrValue,
    KernelCall,
    kernel_outputs,
    make_kernel_call,
    read_kernel_call,
    remake_kernel_call,
)
from .as_reshapes import as_reshapes
from .canonicalise import canonicalise
from .centre_products import centre_products
from .choose_sparse import DEFAULT_MACHINES, choose_sparse
from .choose_winograd import choose_winograd
from .fold_batch_norm import fold_batch_norm
from .fold_constants import fold_constants
from .fold_lookups import fold_lookups
from .fuse_epilogues import fuse_epilogues
from .fuse_quantize import fuse_quantize
from .fuse_residual_norms import fuse_residual_norms
from .hoist_invariants import hoist_invariants
from .keep_wide import keep_wide
from .layout import channels_last
from .legalize import fuse, legalize
from .lower_convolutions import lower_convolutions
from .lower_integer_products import lower_integer_products
from .lower_matmuls import lower_matmuls
from .lower_movement import lower_movement
from .lower_operators import lower_operators
from .lower_quantized import lower_quantized, unsigned_activations
from .lower_weights import lower_weights
from .match_attention import match_attention, pack_attention
from .match_norms import match_norms
from .recognise_weights import recognise_weights
from .sub_pixels import sub_pixels

__all__ = [
    "FOLDING",
    "AttrValue",
    "KernelCall",
    "Pass",
    "as_reshapes",
    "kernel_outputs",
    "lowering_passes",
    "make_kernel_call",
    "read_kernel_call",
    "remake_kernel_call",
]

Pass = Callable[[tvm.IRModule], tvm.IRModule]


# What comes first of all, before layers are matched or quantized: weights are constants behind it.
FOLDING: list[tuple[str, Pass]] = [
    ("canonicalise", canonicalise),
    ("keep wide", keep_wide),
    ("recognise weights", recognise_weights),
    ("fold constants", fold_constants),
    ("fold batch norm", fold_batch_norm),
    ("fold batch norm of constants", fold_constants),
    ("canonicalise constants", canonicalise),
]


def lowering_passes(
    target: tvm.target.Target | None = None, tune: Pass | None = None, machines: Collection[str] = DEFAULT_MACHINES
) -> list[tuple[str, Pass]]:
    """All passes in order. `target` is what generated code is legalized for; None: the current target. `tune` stands where every
    kernel call has been made and fused. `machines`: those that estimates are for, as `uname -m` says them."""

    def for_target(stage: Pass) -> Pass:
        def run(mod: tvm.IRModule) -> tvm.IRModule:
            if target is None:
                return stage(mod)
            with target:
                return stage(mod)

        return run

    return [
        *FOLDING,
        ("lower operators", lower_operators),
        ("hoist invariants", hoist_invariants),
        ("sub-pixels", sub_pixels),
        ("unsigned activations", unsigned_activations),
        ("match norms", match_norms),
        ("match attention", match_attention),
        ("channels last", channels_last),
        ("canonicalise layout", canonicalise),
        ("fold layout constants", fold_constants),
        ("match norms of channels", match_norms),
        ("pack attention", pack_attention),
        ("centre products", centre_products),
        ("lower integer products", lower_integer_products),
        ("lower quantized", lower_quantized),
        ("lower weights", lower_weights),
        ("lower convolutions", lower_convolutions),
        ("lower matmuls", lower_matmuls),
        ("fuse epilogues", fuse_epilogues),
        ("fuse quantize", fuse_quantize),
        ("fold lookups", fold_lookups),
        ("fuse residual norms", fuse_residual_norms),
        ("choose winograd", choose_winograd),
        ("choose sparse", partial(choose_sparse, machines=machines)),
        *([("tune", tune)] if tune is not None else []),
        ("canonicalise kernels", canonicalise),
        ("lower movement", lower_movement),
        ("legalize", for_target(legalize)),
        ("fuse", for_target(fuse)),
    ]

"""How an oracle builds loops with TVM: each is built for one run, so that the quickest build is the best one."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.tirx.compilation_pipeline import register_tir_pipeline

__all__ = ["PIPELINE", "TARGET"]

TARGET = tvm.target.Target({"kind": "llvm", "opt-level": 0})
PIPELINE = "maas_rt_unoptimized"


def _pipeline() -> tuple[Any, Any, Any]:
    """TVM's lowering of loops without its simplifiers, which take 16 of 17 seconds on the long expressions of a bicubic sampler."""
    s, t = s_tir.transform, tirx.transform
    passes = [s.LowerInitBlock, s.PlanAndUpdateBufferAllocationLocation, s.ConvertBlocksToOpaque, s.LowerMatchBuffer]
    passes += [s.LowerOpaqueBlock, t.FlattenBuffer, t.BF16ComputeLegalize, t.FP8ComputeLegalize]
    passes += [lambda: t.NarrowDataType(32), t.VectorizeLoop, t.UnrollLoop, t.AnnotateEntryFunc]
    passes += [t.SplitHostDevice, t.MakePackedAPI, t.FP8StorageLegalize, t.BF16StorageLegalize]
    return tvm.transform.Sequential([make() for make in passes]), finalize_host_passes, finalize_device_passes


register_tir_pipeline(PIPELINE, _pipeline)

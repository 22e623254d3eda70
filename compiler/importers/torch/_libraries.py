"""What libraries are given in place of their own functions while a model is traced: those whose Python branches on the data."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

__all__ = ["traceable_libraries"]


@torch.library.custom_op("maas_rt::batched_nms", mutates_args=())
def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """boxes [N, 4] as x1 y1 x2 y2, scores [N], classes idxs [N] -> int64 [kept]: the highest score first, and none that covers
    one of its class that was kept before by more than the threshold.

    torchvision.ops.batched_nms chooses by the number of boxes between two ways to compute this."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = torch.sort(scores, stable=True, descending=True).indices
    kept = []
    while left.numel():
        best, left = left[0], left[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        extent = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clamp(min=0)
        common = extent[:, 0] * extent[:, 1]
        overlap = common / (areas[best] + areas[left] - common)
        left = left[~((overlap.double() > iou_threshold) & (idxs[left] == idxs[best]))]
    found: torch.Tensor = torch.stack(kept) if kept else scores.new_empty([0], dtype=torch.int64)
    return found


@batched_nms.register_fake
def _(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    return scores.new_empty([torch.library.get_ctx().new_dynamic_size()], dtype=torch.int64)


def _batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> Any:
    return torch.ops.maas_rt.batched_nms(boxes, scores, idxs, iou_threshold)


_COUNTING = ("torchvision.ops.poolers", "torchvision.models.detection.roi_heads")  # modules with len(tensor)


def _length(value: Any) -> Any:
    """The length of a tensor as a size, which may be a symbol: Python's own len makes it a number."""
    return value.shape[0] if isinstance(value, torch.Tensor) else len(value)


def _decoded(coder: Any, codes: torch.Tensor, boxes: Any) -> torch.Tensor:
    """BoxCoder.decode, whose own asks whether there are any boxes: codes [N, 4 * C], boxes [N, 4] in parts -> [N, C, 4]."""
    found: torch.Tensor = coder.decode_single(codes, torch.cat(list(boxes))).unflatten(1, (-1, 4))
    return found


@contextlib.contextmanager
def traceable_libraries() -> Iterator[None]:
    """For the time of an export; libraries that nobody has imported are not."""
    with contextlib.ExitStack() as stack:
        boxes = sys.modules.get("torchvision.ops.boxes")
        if boxes is not None and hasattr(boxes, "batched_nms"):
            stack.enter_context(mock.patch.object(boxes, "batched_nms", _batched_nms))
        coding = sys.modules.get("torchvision.models.detection._utils")
        if coding is not None and hasattr(coding, "BoxCoder"):
            stack.enter_context(mock.patch.object(coding.BoxCoder, "decode", _decoded))
        for name in _COUNTING:
            if name in sys.modules:
                stack.enter_context(mock.patch.object(sys.modules[name], "len", _length, create=True))
        yield

"""torchvision's operators, and what its models are given while they are traced. torchvision itself is not needed: where it is not
installed its operators are defined here, by formulas of torch."""

from __future__ import annotations

import math
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler import compile
from maas_rt.compiler.importers.torch import _libraries

import maas_rt
from tests.compiler._imported_oracle import relative_error

try:
    import torchvision  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
except (ImportError, RuntimeError):

    @torch.library.custom_op("torchvision::nms", mutates_args=())
    def _nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
        return _libraries.batched_nms(dets, scores, torch.zeros(len(scores), dtype=torch.int64), iou_threshold)

    @_nms.register_fake
    def _(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
        return scores.new_empty([torch.library.get_ctx().new_dynamic_size()], dtype=torch.int64)

    @torch.library.custom_op("torchvision::roi_align", mutates_args=())
    def _roi_align(input: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int, pooled_width: int,
                   sampling_ratio: int, aligned: bool) -> torch.Tensor:  # fmt: skip
        """Bilinear samples by grid_sample, averaged in bins."""
        height, width = input.shape[2:]
        found = []
        for image, *corners in rois.tolist():
            x1, y1, x2, y2 = (v * spatial_scale - 0.5 * aligned for v in corners)
            w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
            rows, columns = (
                sampling_ratio if sampling_ratio > 0 else math.ceil(n) for n in (h / pooled_height, w / pooled_width)
            )
            y = y1 + (torch.arange(pooled_height * rows) + 0.5) * h / (pooled_height * rows)
            x = x1 + (torch.arange(pooled_width * columns) + 0.5) * w / (pooled_width * columns)
            places = torch.stack(
                torch.broadcast_tensors(x / (width - 1) * 2 - 1, (y / (height - 1) * 2 - 1)[:, None]), -1
            )
            batch = input[int(image)][None]
            samples = F.grid_sample(batch, places[None].to(input.dtype), padding_mode="border", align_corners=True)
            inside = ((y >= -1) & (y <= height))[:, None] & ((x >= -1) & (x <= width))
            found.append(F.avg_pool2d(samples * inside, (rows, columns))[0])
        return torch.stack(found)

    @_roi_align.register_fake
    def _(input: torch.Tensor, rois: torch.Tensor, spatial_scale: float, pooled_height: int, pooled_width: int,
          sampling_ratio: int, aligned: bool) -> torch.Tensor:  # fmt: skip
        return input.new_empty([rois.shape[0], input.shape[1], pooled_height, pooled_width])


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 20
    return torch.cat(
        [corner, corner + 1 + torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 9], 1
    )


def agree(module: torch.nn.Module, *inputs: torch.Tensor, dynamic: Any = None, others: Any = ()) -> maas_rt.Model:
    model = maas_rt.load(compile(module, inputs, dynamic=dynamic, verify=False).to_bytes())
    for given in (inputs, *others):
        found = model.run({info.name: value.numpy() for info, value in zip(model.inputs, given)})
        expected = torch.utils._pytree.tree_leaves(module(*given))
        for info, wanted in zip(model.outputs, expected, strict=True):
            assert found[info.name].shape == tuple(wanted.shape)
            assert relative_error(found[info.name], wanted.numpy()) < 1e-5
    return model


def test_boxes_are_suppressed() -> None:
    class Kept(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> Any:
            kept = torch.ops.torchvision.nms(boxes, scores, 0.3)
            return kept, boxes[kept[:5]]

    scores = torch.rand(40, generator=torch.Generator().manual_seed(3)).mul(8).round()  # ties: the first one wins
    apart = torch.arange(40.0)[:, None] * 50 + torch.tensor([0.0, 0, 1, 1])
    others = [
        (boxes(40, 7), scores),
        (apart, scores),
        (torch.zeros(40, 4), scores),
    ]  # all are kept; 0 / 0 suppresses none
    agree(Kept(), boxes(40), scores, others=others)


def test_boxes_of_one_class_alone_suppress_each_other() -> None:
    class Kept(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor, kinds: torch.Tensor) -> Any:
            return torch.ops.maas_rt.batched_nms(boxes, scores, kinds, 0.1)

    scores = torch.rand(30, generator=torch.Generator().manual_seed(3))
    kinds = torch.arange(30) % 3
    apart = boxes(30) + kinds[:, None] * 1000  # torchvision's way to say it
    expected = torch.ops.torchvision.nms(apart, scores, 0.1)
    assert torch.equal(Kept()(boxes(30), scores, kinds), expected)
    assert len(expected) < 30
    agree(Kept(), boxes(30), scores, kinds)


@pytest.mark.parametrize(("ratio", "aligned"), [(2, False), (2, True), (-1, True), (0, False)])
def test_regions_of_a_feature_map(ratio: int, aligned: bool) -> None:
    class Regions(torch.nn.Module):
        def forward(self, x: torch.Tensor, rois: torch.Tensor) -> Any:
            return torch.ops.torchvision.roi_align(x, rois, 0.5, 3, 2, ratio, aligned)

    x = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    places = torch.cat([(torch.arange(6.0) % 2)[:, None], boxes(6) * 1.4 - 6], 1)  # some lie outside
    fewer = torch.cat([torch.zeros(2, 1), boxes(2, 5)], 1)
    agree(Regions(), x, places, dynamic={"rois": {0: (1, 8)}}, others=[(x, fewer)])


def test_the_best_of_those_above_a_threshold() -> None:
    """How detectors choose: a mask that is used twice, and as many of the best as there are, at most 5."""

    class Best(torch.nn.Module):
        def forward(self, scores: torch.Tensor, boxes: torch.Tensor) -> Any:
            good = scores > 0.5
            scores, boxes = scores[good], boxes[good]
            best, place = scores.topk(min(5, scores.size(0)))
            return best, boxes[place]

    few, many = torch.rand(12, generator=torch.Generator().manual_seed(1)), torch.linspace(0.51, 0.9, 12)
    few[3:] *= 0.5
    agree(Best(), few, boxes(12), others=[(many, boxes(12)), (torch.zeros(12), boxes(12))])


def test_a_library_that_branches_on_data_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = types.ModuleType("torchvision.ops.boxes")

    def batched_nms(
        boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
    ) -> torch.Tensor:
        assert boxes.numel() > 4  # of a size that only the data decides
        return _libraries.batched_nms(boxes, scores, idxs, iou_threshold)

    library.batched_nms = batched_nms
    monkeypatch.setitem(sys.modules, "torchvision.ops.boxes", library)

    class Chosen(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> Any:
            good = scores > 0.2
            boxes, scores = boxes[good], scores[good]
            return boxes[library.batched_nms(boxes, scores, (scores * 4).long(), 0.2)]

    agree(Chosen(), boxes(20), torch.rand(20, generator=torch.Generator().manual_seed(2)))
    assert library.batched_nms is batched_nms
    np.testing.assert_equal(_libraries._length([1, 2]), 2)


def test_boxes_of_images_that_are_not_there() -> None:
    """roi_align of torchvision reads out of bounds there; here the nearest image."""

    class Boxes(torch.nn.Module):
        def forward(self, x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return torch.ops.torchvision.roi_align.default(x, boxes, 1.0, 2, 2, 2, False)

    x, box = torch.arange(32.0).reshape(2, 1, 4, 4), [0.0, 0.0, 2.0, 2.0]
    given = torch.tensor([[which, *box] for which in (0.0, 1.0, -7e8, 5e9, float("nan"))])
    model = maas_rt.load(compile(Boxes(), [x, given], verify=False))
    got = model(x.numpy(), given.numpy())
    np.testing.assert_array_equal(got[2:], got[[0, 1, 0]])

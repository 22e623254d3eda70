"""What quantization-aware training learned, compiled: how far it is from the fake-quantized module."""

from __future__ import annotations

import copy

import numpy as np
import torch
from maas_rt.compiler import compile
from maas_rt.compiler.train import TrainOptions, finish, prepare_qat, train
from torch import nn

from ._data import fashion_mnist
from ._files import BATCH, computed
from ._rows import Goal, Measured, row
from ._trained import SEED, tensors, trained

STEP, ROUNDING = 0.0039, 1e-6  # of the output's scale: one of 8 bits, and that of float32 sums in another order
IMAGES = 500


@row("qat", "QAT, then compiled: from the fake-quantized module", Goal("largest difference over scale", STEP, ROUNDING, least=False))  # fmt: skip
def _qat() -> Measured:
    images, labels = (each[:2000] for each in tensors("train"))
    model = prepare_qat(copy.deepcopy(trained("resnet")), images[:64])
    options = TrainOptions(lr=1e-4, steps=30, batch=64, seed=SEED)
    train(model, [images, labels], nn.functional.cross_entropy, options)
    test = fashion_mnist("t10k").images[:IMAGES]
    ready = finish(model).eval()
    with torch.inference_mode():
        want = model.eval()(torch.from_numpy(test)).numpy()
    artifact = compile(ready, {"x": torch.from_numpy(test[:2])}, dynamic={"x": {0: (1, BATCH)}})
    off = np.abs(computed(artifact, {"x": test}) - want).max(1)
    scale = np.abs(want).max()
    more = {"images that differ by more than rounding": int((off > ROUNDING * scale).sum()), "images": IMAGES}
    return Measured({"largest difference over scale": float(off.max() / scale)}, more=more)

"""A smaller ResNet: without the first block of the trained one, which adds to what it reads and takes half of the time; of the others the
channels with the largest weights; and the trained one's scores to learn from."""

from __future__ import annotations

import torch
from maas_rt.compiler.train import Distillation, TrainOptions, train
from torch import Tensor, nn

from ._data import KEPT
from ._nets import Residual, ResNet
from ._trained import BATCH, SEED, kept_or, tensors, trained

WIDTHS = (16, 16, 32, 48)
EPOCHS, LR = 4, 4e-3
TEACHING = {"temperature": 4.0, "alpha": 0.7}


def student() -> nn.Module:
    """The trained ResNet, pruned to WIDTHS and distilled; in evaluation mode."""
    recipe = f"{WIDTHS} {EPOCHS} {LR} {TEACHING} {BATCH} {SEED}"
    net = ResNet(WIDTHS)
    net.blocks[0] = nn.Identity()
    net.load_state_dict(kept_or("student", recipe, _taught))
    return net.eval()


def _taught() -> dict[str, Tensor]:
    teacher = trained("resnet")
    assert isinstance(teacher, ResNet)
    options = TrainOptions(
        lr=LR, weight_decay=0.01, schedule="one-cycle", epochs=EPOCHS, batch=BATCH, seed=SEED, clip=1.0,
        checkpoint=KEPT / "training" / "student",
    )  # fmt: skip
    net = pruned(teacher, WIDTHS)
    net.blocks[0] = nn.Identity()
    result = train(
        net, tensors("train"), nn.functional.cross_entropy, options, validation=tensors("t10k"),
        callbacks=[Distillation(teacher, **TEACHING)],
    )  # fmt: skip
    print(f"student: {result.validation}", flush=True)
    return dict(result.state)


def pruned(teacher: ResNet, widths: tuple[int, ...]) -> ResNet:
    """A copy with so many channels a stage: those whose filters have the largest norms (H. Li et al., 2017), added up over the layers
    that make them; the channels between a block's two convolutions are chosen by the first one's."""
    net = ResNet(widths)
    torch.manual_seed(SEED)
    every = torch.arange(1)
    now = _largest(
        [teacher.stem[0], _last(teacher.blocks[0])], widths[0]
    )  # the first block adds to what the stem makes
    _take(teacher.stem[0], net.stem[0], now, every)
    for old, new, width in zip(teacher.blocks, net.blocks, widths, strict=True):
        assert isinstance(old, Residual) and isinstance(new, Residual)
        inner = _largest([old.body[0]], width)
        after = now if isinstance(old.shortcut, nn.Identity) else _largest([_last(old), old.shortcut], width)
        _take(old.body[0], new.body[0], inner, now)
        _take(_last(old), _last(new), after, inner)
        if not isinstance(old.shortcut, nn.Identity):
            _take(old.shortcut, new.shortcut, after, now)
        now = after
    net.head.load_state_dict({"weight": teacher.head.weight[:, now], "bias": teacher.head.bias})
    return net


def _last(block: nn.Module) -> nn.Module:
    assert isinstance(block, Residual)
    return block.body[2]


def _largest(layers: list[nn.Module], count: int) -> Tensor:
    """Indices of the channels with the largest norms, the batch norms' scales included."""
    norms = sum(_norms(layer) for layer in layers)
    assert isinstance(norms, Tensor)
    return norms.topk(count).indices.sort().values


def _norms(layer: nn.Module) -> Tensor:
    convolution, norm = layer.children()
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return convolution.get_parameter("weight").detach().flatten(1).norm(dim=1) * scale.abs()


def _take(old: nn.Module, new: nn.Module, outputs: Tensor, inputs: Tensor) -> None:
    """The weights of a convolution and its batch norm, of these channels."""
    state = old.state_dict()
    taken = {name: value[outputs] if value.ndim else value for name, value in state.items()}
    taken["0.weight"] = taken["0.weight"][:, inputs]
    new.load_state_dict(taken)

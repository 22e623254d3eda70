"""Quantization-aware training: weights and activations are rounded as the compiled model will, with scales that are learned.

S. K. Esser et al., "Learned Step Size Quantization" (LSQ, 2020): the gradient of a scale is that of the rounding with a straight-through
estimator, times 1 / sqrt(n · Qmax), n numbers sharing the scale; torch's learnable fake quantization computes it. Zero points of
activations with negative values are learned as in Y. Bhalgat et al., "LSQ+" (2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from maas_rt._errors import InvalidArgumentError

__all__ = ["finish", "left_in_float", "prepare_qat"]

_TINY = float(torch.finfo(torch.float32).tiny)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = {
    nn.ConvTranspose1d: nn.functional.conv_transpose1d,
    nn.ConvTranspose2d: nn.functional.conv_transpose2d,
    nn.ConvTranspose3d: nn.functional.conv_transpose3d,
}
_HEAVY = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)  # what takes a model's time


def prepare_qat(
    module: nn.Module,
    example_inputs: Any,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    skip: tuple[str, ...] = (),
) -> nn.Module:
    """`module`, changed in place: its linear layers and convolutions, transposed ones too, compute with fake-quantized inputs and weights.

    Weights are int8, symmetric, with a scale for each output; activations uint8 with one scale and a zero point. Batch norms behind such
    layers are folded into them first. Scales begin with what `example_inputs`, a batch, show. Names of the weights stay.

    Args:
        example_inputs: a tensor, a sequence of them in the order of the inputs, or a mapping by name.
        weight_bits: 2 to 8.
        activation_bits: 7 is faster on CPUs without VNNI, 8 more accurate.
        skip: patterns (fnmatch) of the names of layers that stay in float.

    Raises InvalidArgumentError: nothing can be quantized, an input is not finite, or it was prepared before.
    """
    if not 2 <= weight_bits <= 8 or activation_bits not in (7, 8):
        raise InvalidArgumentError(
            f"prepare_qat: weight_bits is {weight_bits!r} and activation_bits {activation_bits!r}, expected 2 to 8, and 7 or 8"
        )
    if any(isinstance(each, _Quantized) for each in module.modules()):
        raise InvalidArgumentError("prepare_qat: the module is prepared already: give the float module")
    was_training = module.training
    module.eval()
    _fold_batch_norms(module, example_inputs)
    layers = {name: each for name, each in module.named_modules() if _quantizable(each) and not _named(name, skip)}
    ranges = _observed(module, example_inputs, layers)
    if not ranges:
        raise InvalidArgumentError(
            "prepare_qat: no layer can be quantized, expected a Linear, Conv1d, Conv2d or Conv3d that the example inputs reach and `skip` does not name"
        )
    for name, (low, high) in ranges.items():
        _quantize(name, layers[name], low, high, weight_bits, 127 if activation_bits == 7 else 255)
    module.train(was_training)
    return module


def finish(module: nn.Module) -> nn.Module:
    """`module`, changed in place: what was learned of scales and zero points is fixed, for inference and the compiler, which reads the
    same integers. Returns it in eval mode."""
    found = [each for each in module.modules() if isinstance(each, _Quantized)]
    if not found:
        raise InvalidArgumentError("finish: the module has no quantized layers: give one that prepare_qat returned")
    if any(isinstance(each, DTensor) for each in module.parameters()):
        raise InvalidArgumentError(
            "finish: the module is sharded: load the result's `state` into one that is not, prepared alike"
        )
    for layer in found:
        for name in ("input_quantizer", "weight_quantizer"):
            quantizer = getattr(layer, name)
            if isinstance(quantizer, _Learned):
                setattr(layer, name, _Fixed(quantizer))
    return module.eval()


def left_in_float(module: nn.Module) -> dict[str, str]:
    """The layers of a prepared module that stay in float, by name, and why."""
    inside = [name for name, each in module.named_modules() if isinstance(each, nn.MultiheadAttention)]
    found = {}
    for name, each in module.named_modules():
        if (
            not isinstance(each, _HEAVY)
            or isinstance(each, _Quantized)
            or any(name.startswith(f"{n}.") for n in inside)
        ):
            continue
        known = _quantizable(each)
        found[name] = (
            "skipped, or the example inputs do not reach it"
            if known
            else f"a {type(each).__name__} has no fake quantization"
        )
    return found


class _Learned(nn.Module):
    """Fake quantization whose scale, and zero point unless it is 0, are parameters."""

    def __init__(self, scale: Tensor, zero: Tensor, low: int, high: int, axis: int | None) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.zero = nn.Parameter(zero, requires_grad=bool((zero != 0).any()))
        self.low, self.high, self.axis = low, high, axis

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}, axis={self.axis}"

    def forward(self, x: Tensor) -> Tensor:
        scale, wide = positive(self.scale), x.float()
        if self.axis is not None:
            factor = 1 / math.sqrt(x.numel() / x.shape[self.axis] * self.high)
            y = torch._fake_quantize_learnable_per_channel_affine(
                wide, scale, self.zero, self.axis, self.low, self.high, factor
            )
        else:
            factor = 1 / math.sqrt(max(x.numel() / max(x.shape[0], 1), 1) * self.high)
            y = torch._fake_quantize_learnable_per_tensor_affine(wide, scale, self.zero, self.low, self.high, factor)
        return y.to(x.dtype)


class _Fixed(nn.Module):
    """The same with numbers that are known."""

    scale: Tensor
    zero: Tensor

    def __init__(self, learned: _Learned) -> None:
        super().__init__()
        self.low, self.high, self.axis = learned.low, learned.high, learned.axis
        zero = learned.zero.detach()
        # torch's two operators round a learned zero point so, each its own way.
        rounded = (zero + 0.5).clamp(self.low, self.high).trunc() if self.axis is None else zero.round()
        self.register_buffer("scale", positive(learned.scale.detach()).clone())
        self.register_buffer("zero", rounded.to(torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if self.axis is not None:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero, self.axis, self.low, self.high)
        return torch.fake_quantize_per_tensor_affine(x, self.scale[0], self.zero[0], self.low, self.high)


class _Quantized(nn.Module):
    """Mixed into a layer: what it computes with is fake-quantized."""

    input_quantizer: nn.Module
    weight_quantizer: nn.Module


class _Linear(_Quantized, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


def _convolution(kind: type[Any]) -> type[Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        result: Tensor = self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)
        return result

    return type(f"_{kind.__name__}", (_Quantized, kind), {"forward": forward, "__module__": __name__})


def _transposed(kind: type[Any], function: Any) -> type[Any]:
    def forward(self: Any, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        axes = len(self.kernel_size)
        extra = self._output_padding(x, output_size, self.stride, self.padding, self.kernel_size, axes, self.dilation)
        weight = self.weight_quantizer(self.weight)
        result: Tensor = function(
            self.input_quantizer(x), weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        return result

    return type(f"_{kind.__name__}", (_Quantized, kind), {"forward": forward, "__module__": __name__})


_Conv1d, _Conv2d, _Conv3d = (_convolution(kind) for kind in _CONVOLUTIONS)
_ConvTranspose1d, _ConvTranspose2d, _ConvTranspose3d = (_transposed(*each) for each in _TRANSPOSED.items())
_KINDS: dict[type[nn.Module], type[Any]] = {
    nn.Linear: _Linear, nn.Conv1d: _Conv1d, nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d,
    nn.ConvTranspose1d: _ConvTranspose1d, nn.ConvTranspose2d: _ConvTranspose2d, nn.ConvTranspose3d: _ConvTranspose3d,
}  # fmt: skip


def positive(scale: Tensor) -> Tensor:
    """What a learned scale stands for: a step of the optimizer may lead it through zero."""
    return scale.abs().clamp_min(_TINY)


def _quantizable(layer: nn.Module) -> bool:
    if type(layer) not in _KINDS:
        return False
    weight, mode = layer.weight, getattr(layer, "padding_mode", "zeros")
    return isinstance(weight, nn.Parameter) and mode == "zeros"


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _quantize(name: str, layer: nn.Module, low: float, high: float, bits: int, most: int) -> None:
    if not math.isfinite(low) or not math.isfinite(high):
        raise InvalidArgumentError(
            f"prepare_qat: what {name} reads of the example inputs is {low} to {high}, expected finite numbers"
        )
    low, high = min(low, 0.0), max(high, 0.0)  # zero (padding, a relu's floor) is always exact
    assert isinstance(layer.weight, Tensor)
    weight = layer.weight.detach()
    step = (high - low) / most or 1.0
    zero = min(max(round(-low / step), 0), most)
    device = weight.device
    axis = int(
        type(layer) in _TRANSPOSED
    )  # of the outputs; those of a transposed convolution's groups share their scales
    layer.__class__ = _KINDS[type(layer)]
    layer.input_quantizer = _Learned(
        torch.tensor([step], device=device), torch.tensor([float(zero)], device=device), 0, most, None
    )
    scale = _first_scales(weight.transpose(0, axis), 2 ** (bits - 1) - 1)
    layer.weight_quantizer = _Learned(scale, torch.zeros_like(scale), 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1, axis)


def _first_scales(weight: Tensor, most: int) -> Tensor:
    """LSQ's 2 · mean(|w|) / sqrt(Qmax), but none so large that the largest weight leaves integers unused, as with 8 bits it would."""
    rows = weight.flatten(1).abs().float()
    scale = torch.minimum(2 * rows.mean(1) / math.sqrt(most), rows.amax(1) / most)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _call(module: nn.Module, inputs: Any) -> Any:
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return module(**inputs)
        return module(*inputs) if isinstance(inputs, tuple | list) else module(inputs)


def _observed(module: nn.Module, inputs: Any, layers: Mapping[str, nn.Module]) -> dict[str, tuple[float, float]]:
    """The least and the largest number that each layer reads; of those that are reached."""
    found: dict[str, tuple[float, float]] = {}

    def hook(name: str) -> Any:
        def seen(_: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].detach()
            if x.numel() and x.is_floating_point():
                low, high = found.get(name, (0.0, 0.0))
                least, most = x.min().item(), x.max().item()
                if not (math.isfinite(least) and math.isfinite(most)):
                    found[name] = (least, most)
                else:
                    found[name] = (min(low, least), max(high, most))

        return seen

    handles = [each.register_forward_pre_hook(hook(name)) for name, each in layers.items()]
    try:
        _call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _fold_batch_norms(module: nn.Module, inputs: Any) -> None:
    """Batch norms that read what a convolution or linear layer gives, and nothing else does, go into its weights."""
    pairs = _pairs(module, inputs)
    before = _call(module, inputs) if pairs else None
    for (parent, name), (norm_parent, norm_name) in pairs:
        layer, norm = getattr(parent, name), getattr(norm_parent, norm_name)
        copy = deepcopy(layer)
        transposed = isinstance(layer, tuple(_TRANSPOSED))
        fused = (
            fuse_linear_bn_eval(copy, norm)
            if isinstance(layer, nn.Linear)
            else fuse_conv_bn_eval(copy, norm, transposed)
        )
        setattr(parent, name, fused)
        setattr(norm_parent, norm_name, nn.Identity())
    if pairs and not _close(before, _call(module, inputs)):
        raise InvalidArgumentError(
            "prepare_qat: the batch norms cannot be folded, since what the layers in front of them give is read by others too: fold them yourself, or give a module without"
        )


def _pairs(module: nn.Module, inputs: Any) -> list[Any]:
    """(parent, name) of a layer and of the batch norm that reads its result, each called once."""
    places = {each: (parent, name) for parent in module.modules() for name, each in parent.named_children()}
    calls: dict[nn.Module, int] = {}
    given: dict[int, tuple[nn.Module, Any]] = {}  # by the id of a result, which is kept so that no other has it
    read: dict[nn.Module, nn.Module] = {}

    def after(layer: nn.Module, _: Any, result: Any) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        if _quantizable(layer):
            given[id(result)] = (layer, result)

    def before(norm: nn.Module, args: tuple[Any, ...]) -> None:
        if id(args[0]) in given:
            read[norm] = given[id(args[0])][0]

    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.track_running_stats]  # fmt: skip
    handles = [each.register_forward_hook(after) for each in module.modules() if _quantizable(each) or each in norms]
    handles += [each.register_forward_pre_hook(before) for each in norms]
    try:
        _call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    once = [
        (layer, norm)
        for norm, layer in read.items()
        if calls[norm] == 1 and calls[layer] == 1 and _takes_in_norms(layer)
    ]
    return [(places[layer], places[norm]) for layer, norm in once if layer in places and norm in places]


def _takes_in_norms(layer: nn.Module) -> bool:
    """Not a transposed convolution in groups, whose groups share the axis of their outputs."""
    return not isinstance(layer, tuple(_TRANSPOSED)) or getattr(layer, "groups", 1) == 1


def _close(one: Any, other: Any) -> bool:
    from torch.utils._pytree import tree_leaves

    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-4 * max(float(a.abs().max()), 1e-30))
        for a, b in pairs
        if isinstance(a, Tensor) and a.numel() and a.is_floating_point()
    )

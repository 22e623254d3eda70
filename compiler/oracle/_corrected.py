"""ONNX's reference, put right in the operators in which it departs from ONNX's text."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto
from onnx.helper import np_dtype_to_tensor_dtype, tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops._quant_utils import reshape_input
from onnx.reference.ops.op_attention import Attention
from onnx.reference.ops.op_dequantize_linear import _CommonDequantizeLinear
from onnx.reference.ops.op_dynamic_quantize_linear import DynamicQuantizeLinear
from onnx.reference.ops.op_gru import CommonGRU
from onnx.reference.ops.op_lrn import LRN
from onnx.reference.ops.op_lstm import CommonLSTM
from onnx.reference.ops.op_max_pool import MaxPool
from onnx.reference.ops.op_optional import Optional
from onnx.reference.ops.op_pow import Pow
from onnx.reference.ops.op_quantize_linear import _QUANT_INTEGER_RANGES, _CommonQuantizeLinear
from onnx.reference.ops.op_rnn import CommonRNN

__all__ = ["Corrected"]

_FLOAT8 = {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}  # RNN is given its own
_FAR = 1 << 30  # beyond every quantized integer, with any zero point


class _Saturating(OpRun):  # type: ignore[misc]
    """Quotients are cast to int32 before they are saturated: those beyond it, as of a scale of 0, came out at the wrong end, and NaN, of
    which nothing is said, at either: it is the lowest, as in ONNX Runtime."""

    def _run(self, x: Any, y_scale: Any, *rest: Any, **attributes: Any) -> Any:
        with np.errstate(all="ignore"):
            (y,) = super()._run(x, y_scale, *rest, **attributes)
            ends = _QUANT_INTEGER_RANGES.get(np_dtype_to_tensor_dtype(y.dtype))
            if ends is None:
                return (y,)
            scale = reshape_input(y_scale, x.shape, attributes.get("axis", 1), attributes.get("block_size"))
            quotient = np.asarray(x / scale, np.float64)
        y_wide = np.where((quotient <= -_FAR) | np.isnan(quotient), ends[0], y.astype(np.int32))
        return (np.where(quotient >= _FAR, ends[1], y_wide).astype(y.dtype),)


class _Shifting(OpRun):  # type: ignore[misc]
    """The zero point of float8 was left out; integers' and float4's is added."""

    def _run(self, x: Any, y_scale: Any, zero_point: Any = None, **attributes: Any) -> Any:
        if zero_point is None or np_dtype_to_tensor_dtype(zero_point.dtype) not in _FLOAT8:
            return super()._run(x, y_scale, zero_point, **attributes)
        blocks = attributes.get("axis", 1), attributes.get("block_size")
        scale, zero = (reshape_input(each, x.shape, *blocks) for each in (y_scale, zero_point))
        precision = attributes.get("precision")
        wide = tensor_dtype_to_np_dtype(precision) if precision else np.result_type(x, scale)
        with np.errstate(all="ignore"):
            shifted = x.astype(wide) / scale.astype(wide) + zero.astype(wide)
        return super()._run(shifted, np.ones_like(y_scale), zero_point, **attributes)


class _OfNoRange(OpRun):  # type: ignore[misc]
    """Of numbers that have no range the reference casts NaN to uint8, which is whatever the machine makes of it: here it is 0, as when a model
    runs. A range of nothing has the scale 0 by ONNX's text, be it of zeros, where the reference has 1 / 255 and ONNX Runtime 1, or of a tensor
    without elements, which the reference refuses."""

    def _run(self, x: Any) -> Any:
        with np.errstate(all="ignore"):
            if not x.size:
                return x.astype(np.uint8), np.zeros((), x.dtype), np.zeros((), np.uint8)
            y, scale, zero = super()._run(x)
            if not np.any(x):
                return y, np.zeros_like(scale), zero
            if np.isfinite(scale):
                return y, scale, zero
            if np.isnan(np.minimum(0, np.min(x)) / scale):
                zero = np.zeros_like(zero)
            quotient = np.rint(x / scale)
        return np.clip(np.nan_to_num(quotient) + zero, 0, 255).astype(y.dtype), scale, zero


class _Centring(OpRun):  # type: ignore[misc]
    """The zero point of float4 and float8 was left out, or refused; integers' is subtracted."""

    def _run(self, x: Any, x_scale: Any, x_zero_point: Any = None, **attributes: Any) -> Any:
        if x_zero_point is None or np_dtype_to_tensor_dtype(x.dtype) not in {*_FLOAT8, TensorProto.FLOAT4E2M1}:
            return super()._run(x, x_scale, x_zero_point, **attributes)
        (y,) = super()._run(x, x_scale, None, **attributes)
        blocks = attributes.get("axis", 1), attributes.get("block_size")
        zero, scale = (reshape_input(each, x.shape, *blocks) for each in (x_zero_point, x_scale))
        return (((x.astype(np.float32) - zero.astype(np.float32)) * scale).astype(y.dtype),)


class _Holding(OpRun):  # type: ignore[misc]
    """Optional gave what it holds as a list of it."""

    def _run(self, x: Any = None, type: Any = None) -> Any:  # the attribute's name
        return super()._run(x, type) if x is None else (x,)


class _EveryQuery(OpRun):  # type: ignore[misc]
    """A mask of one row is that of every query; the reference aligns it with what is causal as if there were one query."""

    def _run(self, q: Any, k: Any, v: Any, attn_mask: Any = None, *rest: Any, **attributes: Any) -> Any:
        if attn_mask is not None and (attn_mask.ndim < 2 or attn_mask.shape[-2] == 1):
            rows = attn_mask.reshape(1, -1) if attn_mask.ndim < 2 else attn_mask
            attn_mask = np.repeat(rows, q.shape[-2], axis=-2)
        return super()._run(q, k, v, attn_mask, *rest, **attributes)


class _EveryKey(OpRun):  # type: ignore[misc]
    """In operator set 23 a mask of one column is that of every key; the reference fills it up with -inf, as 24 has it."""

    def _run(
        self, q: Any, k: Any, v: Any, attn_mask: Any = None, past_key: Any = None, *rest: Any, **attributes: Any
    ) -> Any:
        if attn_mask is not None and attn_mask.shape[-1] == 1:
            keys = k.shape[-2] + (past_key.shape[-2] if past_key is not None else 0)
            attn_mask = np.repeat(attn_mask, keys, axis=-1)
        return super()._run(q, k, v, attn_mask, past_key, *rest, **attributes)


class _RawProducts(OpRun):  # type: ignore[misc]
    """The products that mode 0 gives are those before the softcap; the reference gives what it has made of them."""

    def _run(self, *inputs: Any, **attributes: Any) -> Any:
        results = super()._run(*inputs, **attributes)
        if not attributes.get("softcap") or attributes.get("qk_matmul_output_mode"):
            return results
        return (*results[:3], super()._run(*inputs, **{**attributes, "softcap": None})[3])


class _OwnLengths(OpRun):  # type: ignore[misc]
    """Recurrent layers took each sequence for as long as the longest. One without a step ends with 0, as in ONNX Runtime."""

    def _run(
        self, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *rest: Any, **attributes: Any
    ) -> Any:
        if lengths is None:
            return super()._run(x, w, r, b, lengths, h, *rest, **attributes)
        time, batch = (1, 0) if attributes.get("layout") else (0, 1)
        results = []
        for number, length in enumerate(lengths):
            steps = np.take(np.take(x, [number], batch), np.arange(max(length, 1)), time)
            start, *others = (s if s is None else np.take(s, [number], batch) for s in (h, *rest[:1]))
            y, *states = super()._run(steps, w, r, b, None, start, *others, *rest[1:], **attributes)
            y = np.concatenate(
                [y, np.zeros_like(np.take(y, np.zeros(x.shape[time] - steps.shape[time], int), time))], time
            )
            results.append([each if length else np.zeros_like(each) for each in (y, *states)])
        batches = (0 if time else 2, *[batch] * len(results[0]))
        return tuple(np.concatenate(parts, at) for parts, at in zip(zip(*results), batches))


class _Heedful(OpRun):  # type: ignore[misc]
    """Recurrent layers were computed as if they had no clip, no coupled gates, and the activations that are usual: there is no answer then."""

    def _run(self, *inputs: Any, clip: Any = None, **attributes: Any) -> Any:
        usual = _ACTIVATIONS.get(self.onnx_node.op_type)
        named = [name.lower() for name in attributes.get("activations") or []]
        others = usual is not None and named not in ([], usual, 2 * usual)
        if clip is not None or attributes.get("input_forget") or others:
            raise NotImplementedError("onnx.reference knows no clip, no input_forget, and no other activations")
        return super()._run(*inputs, **attributes)


class _Inverting(OpRun):  # type: ignore[misc]
    """numpy refuses negative powers of integers: they are 1 / p^-q, rounded towards 0, and of 0 what infinity is converted to."""

    def _run(self, a: Any, b: Any) -> Any:
        if np.asarray(a).dtype.kind != "i" or np.asarray(b).dtype.kind != "i" or not (np.asarray(b) < 0).any():
            return super()._run(a, b)
        (powers,) = super()._run(a, np.maximum(b, 0))
        with np.errstate(all="ignore"):
            inverses = np.power(np.broadcast_to(a, powers.shape).astype(np.float64), b)
            return (np.where(b < 0, inverses.astype(powers.dtype), powers),)


class _Spreading(OpRun):  # type: ignore[misc]
    """Whether a window that holds a NaN gave it, of which the text says nothing, hung on the order of comparisons: it is the largest number,
    as in torch, and the first of a window its position."""

    def _run(self, x: Any, **attributes: Any) -> Any:
        marks = np.isnan(x) if x.dtype.kind in "fV" else np.zeros(x.shape, bool)
        results = super()._run(np.where(marks, -np.inf, x).astype(x.dtype) if marks.any() else x, **attributes)
        if not marks.any():
            return results
        held = super()._run(marks.astype(x.dtype), **attributes)
        hit = held[0] == 1
        values = np.where(hit, np.nan, results[0].astype(np.float64)).astype(x.dtype)
        return (values, *(np.where(hit, first, usual) for first, usual in zip(held[1:], results[1:])))


class _OfChannels(OpRun):  # type: ignore[misc]
    """Sums were taken for as many channels as the batch has samples, and numpy's `**` has the square root of -inf where a power is inf."""

    def _run(self, x: Any, alpha: Any, beta: Any, bias: Any, size: int) -> Any:
        before, channels = (size - 1) // 2, x.shape[1]
        squares, sums = np.square(x), np.zeros_like(x)
        for c in range(channels):
            sums[:, c] = squares[:, max(0, c - before) : c - before + size].sum(axis=1)
        base = (bias + (alpha / size) * sums).astype(x.dtype)
        return ((x / np.power(base, np.full_like(base, beta))).astype(x.dtype),)


# What is wrong, what puts it right, and the operator set from which it is right by itself.
_CORRECTIONS: tuple[tuple[type[OpRun], type[OpRun], float], ...] = (
    (_CommonQuantizeLinear, _Saturating, math.inf), (_CommonQuantizeLinear, _Shifting, math.inf), (Optional, _Holding, math.inf), (Attention, _EveryQuery, math.inf),
    (Attention, _EveryKey, 24), (Attention, _RawProducts, math.inf), (DynamicQuantizeLinear, _OfNoRange, math.inf),
    (_CommonDequantizeLinear, _Centring, math.inf), (Pow, _Inverting, math.inf),
    (MaxPool, _Spreading, math.inf), (LRN, _OfChannels, math.inf),
    *((layer, right, math.inf) for layer in (CommonGRU, CommonLSTM, CommonRNN) for right in (_OwnLengths, _Heedful)),
)  # fmt: skip


@cache
def _corrected(implementation: type[OpRun], opset: int) -> type[OpRun]:
    rights = [r for wrong, r, until in _CORRECTIONS if issubclass(implementation, wrong) and opset < until]
    return type(implementation.__name__, (*rights, implementation), {}) if rights else implementation


class Corrected(ReferenceEvaluator):  # type: ignore[misc]
    """An evaluator of a model, and of the graphs and functions inside of it."""

    def _load_impl(self, node: NodeProto, input_types: Any = None) -> Any:
        found = super()._load_impl(node, input_types)
        return _corrected(found, self.opsets[node.domain]) if isinstance(found, type) else found

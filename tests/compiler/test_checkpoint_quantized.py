"""Weights that bitsandbytes, GPTQ and AWQ quantized: read as the floats that their definitions give, or told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.compiler._checkpoint_models import filled_with, refusal

ROWS, COLUMNS = 16, 64


def layer() -> nn.Module:
    return nn.ModuleDict({"proj": nn.Linear(COLUMNS, ROWS), "norm": nn.LayerNorm(4)})


def folder_of(path: Path, tensors: Mapping[str, torch.Tensor], config: Any = None) -> Path:
    path.mkdir(exist_ok=True)
    rest = {"proj.bias": torch.ones(ROWS), "norm.weight": torch.ones(4), "norm.bias": torch.zeros(4)}
    save_file(
        {**rest, **{f"proj.{name}": value.contiguous() for name, value in tensors.items()}}, path / "model.safetensors"
    )
    (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    return path


def drawn(low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(len(shape) + high))


def words(codes: torch.Tensor, bits: int, order: list[int] | None = None) -> torch.Tensor:
    """Integers along the last axis in words of 32 bits, the first in the lowest; `order` says which is put there."""
    per = 32 // bits
    groups = codes.reshape(*codes.shape[:-1], -1, per)
    groups = groups if order is None else groups[..., order]
    packed = sum(groups[..., i].long() << (bits * i) for i in range(per))
    assert isinstance(packed, torch.Tensor)
    return (((packed + 2**31) % 2**32) - 2**31).to(torch.int32)


@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq(tmp_path: Path, bits: int, form: str) -> None:
    """w = scale * (code - zero) by groups of rows, which g_idx gives; zero points of the first format are less by one."""
    codes, zeros = drawn(0, 2**bits, COLUMNS, ROWS), drawn(1, 2**bits, 4, ROWS)
    scales, groups = torch.rand(4, ROWS).half() + 0.1, drawn(0, 4, COLUMNS)
    tensors = {
        "qweight": words(codes.T, bits).T,
        "qzeros": words(zeros - int(form == "gptq"), bits),
        "scales": scales,
        "g_idx": groups.int(),
    }
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": form}
    expected = scales.float()[groups] * (codes - zeros[groups])
    filled_with(
        folder_of(tmp_path / "w", tensors, config), {"proj.weight": expected.T, "proj.bias": torch.ones(ROWS)}, layer
    )
    for change in ({"bits": 3}, {"checkpoint_format": "marlin"}, {"quant_method": "hqq"}, {"bits": 16}):
        assert "quantized" in refusal(folder_of(tmp_path / "w", tensors, {**config, **change}), layer)
    for change in (
        {"g_idx": groups.int() + 9},
        {"scales": scales[:3]},
        {"qzeros": tensors["qzeros"][:, :-1]},
        {"qweight": codes},
    ):
        assert "quantized" in refusal(folder_of(tmp_path / "w", {**tensors, **change}, config), layer)
    if form == "gptq":
        full = {**tensors, "qzeros": words(torch.full_like(zeros, 2**bits - 1), bits)}
        assert "two ways" in refusal(folder_of(tmp_path / "w", full, config), layer)


def test_awq(tmp_path: Path) -> None:
    codes, zeros, scales = drawn(0, 16, COLUMNS, ROWS), drawn(0, 16, 4, ROWS), torch.rand(4, ROWS).half() + 0.1
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    tensors = {"qweight": words(codes, 4, order), "qzeros": words(zeros, 4, order), "scales": scales}
    config = {"quant_method": "awq", "bits": 4, "group_size": COLUMNS // 4, "version": "gemm", "zero_point": True}
    each = torch.arange(COLUMNS) // (COLUMNS // 4)
    filled_with(
        folder_of(tmp_path / "w", tensors, config),
        {"proj.weight": (scales.float()[each] * (codes - zeros[each])).T},
        layer,
    )
    for change in ({"version": "gemv"}, {"bits": 8}):
        assert "quantized" in refusal(folder_of(tmp_path / "w", tensors, {**config, **change}), layer)
    assert "quantized" in refusal(folder_of(tmp_path / "w", {**tensors, "scales": scales[:3]}, config), layer)


def four_bits(nested: bool, **changes: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    codes, table = drawn(0, 16, ROWS * COLUMNS), torch.linspace(-1, 1, 16)
    told: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [ROWS, COLUMNS]}
    scales = torch.rand(ROWS) + 0.1
    parts = {"weight": (codes[::2] << 4 | codes[1::2]).to(torch.uint8).reshape(-1, 1), "weight.quant_map": table}
    if nested:
        inner, outer = drawn(0, 256, ROWS), torch.rand(1)
        parts |= {"weight.nested_absmax": outer, "weight.nested_quant_map": torch.linspace(-1, 1, 256)}
        told |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.5}
        scales = torch.linspace(-1, 1, 256)[inner] * outer + 1.5
        parts["weight.absmax"] = inner.to(torch.uint8)
    else:
        parts["weight.absmax"] = scales
    text = json.dumps({**told, **changes}).encode()
    parts["weight.quant_state.bitsandbytes__nf4"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return parts, (table[codes] * scales.repeat_interleave(64)).bfloat16().float().reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("nested", [False, True])
def test_four_bits_of_bitsandbytes(tmp_path: Path, nested: bool) -> None:
    parts, expected = four_bits(nested)
    filled_with(folder_of(tmp_path / "w", parts), {"proj.weight": expected}, layer)
    for change in (
        {"shape": [1 << 40, 1 << 40]},
        {"blocksize": 0},
        {"blocksize": 1 << 60},
        {"dtype": "int8"},
        {"shape": "x"},
        {"nested_blocksize": 0},
    ):
        assert "quantized" in refusal(folder_of(tmp_path / "w", four_bits(nested, **change)[0]), layer)


def test_eight_bits_of_bitsandbytes(tmp_path: Path) -> None:
    codes, scales = drawn(-127, 128, ROWS, COLUMNS).to(torch.int8), torch.rand(ROWS) + 0.1
    parts = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    filled_with(
        folder_of(tmp_path / "w", parts), {"proj.weight": codes * scales.view(-1, 1) * 0.007874015718698502}, layer
    )
    for change in (
        {"weight_format": torch.tensor(2, dtype=torch.uint8)},
        {"SCB": scales[:3]},
        {"weight": codes.short()},
    ):
        assert "quantized" in refusal(folder_of(tmp_path / "w", {**parts, **change}), layer)


def test_a_module_with_quantized_weights_of_its_own(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.zeros(8, ROWS, dtype=torch.int32))
            self.register_buffer("scales", torch.zeros(3))

    state = {"proj.qweight": drawn(0, 99, 8, ROWS).int(), "proj.scales": torch.rand(3)}
    torch.save(state, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", state, lambda: nn.ModuleDict({"proj": Own()}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_bitsandbytes_itself(tmp_path: Path, kind: str, nested: bool) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    weight = torch.randn(ROWS, COLUMNS)
    if kind == "int8":
        made = bnb.nn.Linear8bitLt(COLUMNS, ROWS, bias=False, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
        expected = bnb.functional.int8_vectorwise_dequant(made.weight.data, made.weight.SCB)
    else:
        made = bnb.nn.Linear4bit(COLUMNS, ROWS, bias=False, quant_type=kind, compress_statistics=nested)
        made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=kind, compress_statistics=nested).to(
            "cpu"
        )
        expected = bnb.functional.dequantize_4bit(made.weight.data, made.weight.quant_state)
    filled_with(folder_of(tmp_path / "w", made.state_dict()), {"proj.weight": expected}, layer)

"""Weights that bitsandbytes, GPTQ, AWQ and compressed-tensors quantized: read as the floats that their definitions give, or told; and they
stay in their bits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile as compile_model
from safetensors.torch import save_file
from torch import nn

import maas_rt
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


def dense(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers of each row one behind the other in words of 32 bits, without gaps: a number may lie in two words."""
    count = -(-codes.shape[1] * bits // 32)
    rows = [
        sum(code << (bits * i) for i, code in enumerate(row)).to_bytes(4 * count, "little") for row in codes.tolist()
    ]
    return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.int32).reshape(len(codes), count)


def packed(
    bits: int, group: int, zeros: bool, rows: int = ROWS, columns: int = COLUMNS
) -> tuple[Any, Any, torch.Tensor]:
    """Tensors of a layer as compressed-tensors writes them ("pack-quantized"), the folder's config, and the floats: scale * (q - zero)."""
    codes, groups = drawn(0, 2**bits, rows, columns), -(-columns // group)
    scales = (torch.rand(rows, groups) + 0.1).bfloat16()
    points = drawn(0, 2**bits, rows, groups) if zeros else torch.full((rows, groups), 2 ** (bits - 1))
    tensors = {
        "weight_packed": dense(codes, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([rows, columns]),
    }
    if zeros:
        tensors["weight_zero_point"] = dense(points.T, bits).T
    weights = {"num_bits": bits, "type": "int", "symmetric": not zeros, "strategy": "group", "group_size": group}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights}},
    }
    each = torch.arange(columns) // group
    return tensors, config, (codes - points[:, each]) * scales.float()[:, each]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, COLUMNS])
def test_compressed_tensors(tmp_path: Path, bits: int, group: int, zeros: bool) -> None:
    tensors, config, expected = packed(bits, group, zeros)
    filled_with(
        folder_of(tmp_path / "w", tensors, config), {"proj.weight": expected, "proj.bias": torch.ones(ROWS)}, layer
    )


def test_compressed_tensors_with_groups_in_any_order(tmp_path: Path) -> None:
    tensors, config, _ = packed(4, 16, True)
    groups = drawn(0, 4, COLUMNS)
    codes, points = (drawn(0, 16, ROWS, n) for n in (COLUMNS, 4))
    tensors |= {
        "weight_packed": dense(codes, 4),
        "weight_zero_point": dense(points.T, 4).T,
        "weight_g_idx": groups.int(),
    }
    expected = (codes - points[:, groups]) * tensors["weight_scale"].float()[:, groups]
    filled_with(folder_of(tmp_path / "w", tensors, config), {"proj.weight": expected}, layer)
    tensors["weight_g_idx"] = groups.int() + 4
    assert "quantized by compressed-tensors" in refusal(folder_of(tmp_path / "w", tensors, config), layer)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_packed": torch.zeros(ROWS, 3, dtype=torch.int32)},
        {"weight_packed": torch.zeros(ROWS, 8)},
        {"weight_scale": torch.ones(ROWS, 3)},
        {"weight_scale": torch.ones(ROWS, 4, dtype=torch.float64)},
        {"weight_scale": torch.ones(ROWS, 1, 4)},
        {"weight_shape": torch.tensor([ROWS])},
        {"weight_shape": torch.tensor([1 << 40, 1 << 40])},
        {"weight_shape": torch.tensor([-ROWS, COLUMNS])},
        {"weight_shape": torch.tensor([float("inf"), 1.0])},
        {"weight_zero_point": torch.zeros(ROWS, 4, dtype=torch.int8)},
        {"weight_g_idx": torch.zeros(3, dtype=torch.int32)},
    ],
)
def test_parts_of_compressed_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor]
) -> None:
    tensors, config, _ = packed(4, 16, False)
    assert "quantized by compressed-tensors" in refusal(folder_of(tmp_path / "w", {**tensors, **change}, config), layer)


@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": 0},
        {"num_bits": 9},
        {"num_bits": "4"},
        {"num_bits": [4]},
        {"group_size": {"size": 16}},
        {"group_size": 0},
        {"group_size": -1},
        {"group_size": 1 << 60},
    ],
)
def test_schemes_of_compressed_tensors_that_are_not_known_are_refused(tmp_path: Path, weights: dict[str, Any]) -> None:
    tensors, config, _ = packed(4, 16, False)
    config["config_groups"]["group_0"]["weights"] |= weights
    told = "quantized by compressed-tensors"
    assert told in refusal(folder_of(tmp_path / "w", tensors, config), layer)
    for change in ({"quant_method": "other"}, {"config_groups": None}, {"config_groups": {"a": {"weights": None}}}):
        assert told in refusal(folder_of(tmp_path / "w", tensors, {**config, **change}), layer)


# ---- 8 bits with scales beside them, and bit masks


def with_scales(form: str) -> tuple[dict[str, torch.Tensor], Any, torch.Tensor]:
    """Tensors of a layer, the folder's config and the floats: scale * (q - zero)."""
    codes = drawn(-128, 128, ROWS, COLUMNS).to(torch.int8)
    generator = torch.Generator().manual_seed(3)
    extents = {
        "tensor": [1],
        "rows": [ROWS, 1],
        "rows and zero points": [ROWS, 1],
        "groups": [ROWS, 4],
        "blocks": [2, 3],
    }
    scale = torch.rand(extents[form.removesuffix(" of FP8")], generator=generator) + 0.1
    config: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "config_groups": {"a": {"weights": {"num_bits": 8}}},
    }
    wide = scale if form.startswith(("tensor", "rows")) else scale.repeat_interleave(COLUMNS // 4, 1)
    if form.startswith("blocks"):  # of 12 rows and of 24 columns, the last ones smaller
        config = {"quant_method": "fp8", "weight_block_size": [12, 24]}
        wide = scale.repeat_interleave(12, 0)[:ROWS].repeat_interleave(24, 1)[:, :COLUMNS]
    if form.endswith("FP8"):
        values = torch.randn(ROWS, COLUMNS, generator=generator).to(torch.float8_e4m3fn)
        key = "weight_scale_inv" if form.startswith("blocks") else "weight_scale"
        return {"weight": values, key: scale, "input_scale": torch.ones(1)}, config, values.float() * wide
    tensors = {"weight": codes, "weight_scale": scale.bfloat16()}
    wide = wide.bfloat16().float()
    if form.endswith("zero points"):
        tensors["weight_zero_point"] = drawn(-9, 9, ROWS, 1).to(torch.int8)
        return tensors, config, (codes.float() - tensors["weight_zero_point"]) * wide
    return tensors, config, codes * wide


FORMS = ["tensor", "rows", "rows and zero points", "groups", "tensor of FP8", "rows of FP8", "blocks of FP8"]


@pytest.mark.parametrize("form", FORMS)
def test_eight_bits_with_scales(tmp_path: Path, form: str) -> None:
    tensors, config, expected = with_scales(form)
    filled_with(folder_of(tmp_path / "w", tensors, config), {"proj.weight": expected}, layer)


def bits_of(mask: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(mask.numpy(), axis=-1, bitorder="little"))


@pytest.mark.parametrize("form", ["float16", "2:4", "2:4 of int8 with scales"])
def test_bit_masks(tmp_path: Path, form: str) -> None:
    values = drawn(1, 100, ROWS, COLUMNS)
    mask = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1)) < 0.3
    if form.startswith("2:4"):
        mask = torch.tensor([True, False, False, True]).repeat(ROWS, COLUMNS // 4)
    dense = (values * mask).to(torch.int8 if "int8" in form else torch.float16)
    tensors = {"compressed": dense[mask], "bitmask": bits_of(mask), "shape": torch.tensor([ROWS, COLUMNS])}
    expected = dense.float()
    if form == "float16":
        tensors["row_offsets"] = mask.sum(1).cumsum(0) - mask.sum(1)
    else:
        tensors["compressed"] = tensors["compressed"].reshape(ROWS, COLUMNS // 2)
        tensors["shape"] = tensors["shape"].reshape(-1, 1)
    if "int8" in form:
        tensors["weight_scale"] = torch.rand(ROWS, 1) + 0.1
        expected = expected * tensors["weight_scale"]
    config = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    filled_with(folder_of(tmp_path / "w", tensors, config), {"proj.weight": expected}, layer)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_scale": torch.ones(ROWS, 3)},
        {"weight_scale": torch.ones(3, 1)},
        {"weight_scale": torch.ones(ROWS, 1, 1)},
        {"weight_scale": torch.ones(ROWS, 1, dtype=torch.int32)},
        {"weight_zero_point": torch.zeros(ROWS, 2, dtype=torch.int8)},
        {"weight_zero_point": torch.zeros(ROWS, 1)},
        {"weight_g_idx": torch.zeros(3, dtype=torch.int32)},
        {"weight_scale": torch.ones(ROWS, 4), "weight_g_idx": torch.full((COLUMNS,), 4, dtype=torch.int32)},
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    tensors, config, _ = with_scales("rows")
    told = refusal(folder_of(tmp_path / "w", {**tensors, **change}, config), layer)
    assert "proj.weight" in told and "do not fit each other" in told


@pytest.mark.parametrize(
    "change",
    [
        {"compressed": torch.ones(5)},
        {"bitmask": torch.zeros(ROWS, 3, dtype=torch.uint8)},
        {"bitmask": torch.zeros(ROWS, COLUMNS // 8)},
        {"shape": torch.tensor([1 << 40, COLUMNS])},
        {"shape": torch.tensor([-ROWS, COLUMNS])},
        {"shape": torch.tensor([1.0, 2.0])},
    ],
)
def test_bit_masks_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    tensors = {
        "compressed": torch.ones(ROWS * COLUMNS),
        "bitmask": bits_of(mask),
        "shape": torch.tensor([ROWS, COLUMNS]),
    }
    assert "do not fit each other" in refusal(folder_of(tmp_path / "w", {**tensors, **change}), layer)


def test_floats_that_have_a_scale_beside_them_stay_what_they_are(tmp_path: Path) -> None:
    tensors = {"weight": torch.randn(ROWS, COLUMNS), "weight_scale": torch.ones(1)}
    assert "it has no use for proj.weight_scale" in refusal(folder_of(tmp_path / "w", tensors), layer)


# ---- they stay in their bits

WIDE, DEEP = 96, 128


class Reader(nn.Module):
    """A product, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.table = nn.Linear(DEEP, WIDE), nn.Embedding(WIDE, DEEP)

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.proj(x), self.table(at)


class Scaled(Reader):
    """Something else reads the weight, too."""

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.proj(x), self.table(at) + self.proj.weight.sum()


class Changed(Reader):
    """Its load hook changes what the checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(
            lambda module, state, *_: state.update({"proj.weight": state["proj.weight"] * 2})
        )


def _gptq(bits: int) -> tuple[Any, Any, torch.Tensor]:
    codes, zeros, scales = drawn(0, 2**bits, DEEP, WIDE), drawn(1, 2**bits, 4, WIDE), torch.rand(4, WIDE).half() + 0.1
    groups = torch.arange(DEEP) // 32
    tensors = {
        "qweight": words(codes.T, bits).T,
        "qzeros": words(zeros - 1, bits),
        "scales": scales,
        "g_idx": groups.int(),
    }
    expected = (scales.float()[groups] * (codes - zeros[groups])).T
    return tensors, {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq"}, expected


def _awq() -> tuple[Any, Any, torch.Tensor]:
    codes, zeros, scales = drawn(0, 16, DEEP, WIDE), drawn(0, 16, 4, WIDE), torch.rand(4, WIDE).half() + 0.1
    order, each = [0, 2, 4, 6, 1, 3, 5, 7], torch.arange(DEEP) // 32
    tensors = {"qweight": words(codes, 4, order), "qzeros": words(zeros, 4, order), "scales": scales}
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    return tensors, config, (scales.float()[each] * (codes - zeros[each])).T


def _int8() -> tuple[Any, Any, torch.Tensor]:
    codes, scales = drawn(-127, 128, WIDE, DEEP).to(torch.int8), torch.rand(WIDE) + 0.1
    return {"weight": codes, "SCB": scales}, None, codes * scales[:, None] / 127


def _scaled(groups: int) -> tuple[Any, Any, torch.Tensor]:
    codes, scales = drawn(-127, 128, WIDE, DEEP).to(torch.int8), (torch.rand(WIDE, groups) + 0.1).half()
    floats = codes * scales.float().repeat_interleave(DEEP // groups, 1)
    return {"weight": codes, "weight_scale": scales}, None, floats


# name -> tensors, config and floats; bits of a weight
STORED: dict[str, tuple[Callable[[], tuple[Any, Any, torch.Tensor]], int]] = {
    "GPTQ of 4 bits": (lambda: _gptq(4), 4),
    "GPTQ of 8 bits": (lambda: _gptq(8), 8),
    "AWQ": (_awq, 4),
    "LLM.int8()": (_int8, 8),
    "8 bits with a scale a row": (lambda: _scaled(1), 8),
    "8 bits with scales of groups": (lambda: _scaled(4), 8),
    "compressed-tensors of 4 bits": (lambda: packed(4, 32, False, WIDE, DEEP), 4),
    "compressed-tensors of 3 bits, zero points": (lambda: packed(3, 32, True, WIDE, DEEP), 4),
    "compressed-tensors of 8 bits, rows": (lambda: packed(8, DEEP, False, WIDE, DEEP), 8),
}


def compiled(
    path: Path, stored: tuple[Any, Any, torch.Tensor], factory: str
) -> tuple[Counter[str], int, list[Any], Any]:
    """The steps ("half": products with scales in float16) and bytes of weights of a checkpoint whose product and table have the same tensors;
    results, and inputs."""
    tensors, config, _ = stored
    path.mkdir()
    both = {f"{name}.{key}": value.contiguous().clone() for name in ("proj", "table") for key, value in tensors.items()}
    save_file({**both, "proj.bias": torch.ones(WIDE)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"quantization_config": config}))
    inputs = torch.randn(3, DEEP, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 0, 95])
    artifact = compile_model(path, inputs, factory=f"{__name__}:{factory}")
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    names = [each.name for each in program.inputs]
    results = list(program.run({name: each.numpy() for name, each in zip(names, inputs)}).values())
    plan = artifact.linear.plan
    steps = Counter(s.target for block in plan.blocks for s in block.steps)
    scales = [s.args[2] for block in plan.blocks for s in block.steps if s.target == "gemm_f32q"]
    steps["half"] = sum(plan.values[arg.index].dtype_bits == 16 for arg in scales)
    return steps, artifact.linear.weights.size, results, inputs


@pytest.mark.parametrize("name", STORED)
def test_weights_of_a_checkpoint_stay_in_their_bits(tmp_path: Path, name: str) -> None:
    make, bits = STORED[name]
    stored = make()
    steps, size, (product, rows), (x, at) = compiled(tmp_path / "w", stored, "Reader")
    assert steps["gemm_f32q"] == 1 and not steps["gemm_f32"], steps
    assert steps["half"] == (name != "LLM.int8()")  # whose scales are divided by 127
    assert (
        size < 2 * (WIDE * DEEP * bits // 8 + 5 * WIDE * 4) + 4000
    )  # the product's and the table's, scales and zero points
    want = x @ stored[2].T + 1
    torch.testing.assert_close(torch.from_numpy(product), want, rtol=0, atol=2e-6 * float(want.abs().max()))
    torch.testing.assert_close(torch.from_numpy(rows), stored[2][at], rtol=1e-6, atol=0)


@pytest.mark.parametrize("factory", ["Scaled", "Changed"])
def test_weights_that_are_not_products_alone_or_no_more_the_checkpoints_are_the_modules_floats(
    tmp_path: Path, factory: str
) -> None:
    stored = _awq()
    steps, _, (product, rows), (x, at) = compiled(tmp_path / "w", stored, factory)
    assert steps["gemm_f32"] == 1 and not steps["gemm_f32q"], steps
    weight = stored[2] * (2 if factory == "Changed" else 1)
    want = x @ weight.T + 1
    torch.testing.assert_close(torch.from_numpy(product), want, rtol=0, atol=2e-6 * float(want.abs().max()))
    more = weight.sum() if factory == "Scaled" else 0
    torch.testing.assert_close(torch.from_numpy(rows), stored[2][at] + more, rtol=1e-4, atol=0)


def test_groups_in_another_order_become_floats(tmp_path: Path) -> None:
    tensors, config, _ = _gptq(4)
    groups = torch.arange(DEEP).flip(0) // 32
    codes, zeros = drawn(0, 16, DEEP, WIDE), drawn(1, 16, 4, WIDE)
    expected = (tensors["scales"].float()[groups] * (codes - zeros[groups])).T
    steps, _, (product, _), (x, _) = compiled(
        tmp_path / "w", ({**tensors, "g_idx": groups.int()}, config, expected), "Reader"
    )
    assert steps["gemm_f32"] == 1
    want = x @ expected.T + 1
    torch.testing.assert_close(torch.from_numpy(product), want, rtol=0, atol=2e-6 * float(want.abs().max()))


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

"""The recipes WeightOnly, Int8Dynamic and Half: what is quantized, the numbers by their formulas, and what is told of the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Half, Int8, Int8Dynamic, Recipe, WeightOnly
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._gptq import gptq
from maas_rt.compiler.compression._grids import blocks_of, fitted_grid, in_float16
from torch import nn

import maas_rt

WORDS, WIDTH = 120, 96


class Language(nn.Module):
    """A table, two layers, and a head, which may be the table."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(WORDS, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 160), nn.Linear(160, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        return self.head(self.norm(x + self.down(torch.relu(self.up(x)))))


IDS = torch.from_numpy(np.random.default_rng(0).integers(0, WORDS, (2, 9)))


def language(tied: bool = False) -> nn.Module:
    return Language(tied).eval()


def compiled(method: Any, module: nn.Module | None = None, **more: Any) -> Any:
    module = language() if module is None else module
    return compile_model(module, [IDS], recipe=Recipe(quantize=method, **more))


def steps(artifact: Any) -> Counter[str]:
    return Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)


def run(artifact: Any, x: np.ndarray) -> np.ndarray:
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    return next(iter(program.run({program.inputs[0].name: x}).values()))


def decibels(artifact: Any) -> float:
    return min(artifact.manifest["verified"]["signal_to_error_db"].values())


# ---- grids


def by_hand(row: np.ndarray, bits: int, symmetric: bool) -> np.ndarray:
    """One group rounded to nearest, by the formulas of ONNX and GPTQ."""
    top = 2**bits - 1
    if symmetric:
        scale, zero = 2 * np.abs(row).max() / top, 2 ** (bits - 1)
    else:
        low, high = min(row.min(), 0), max(row.max(), 0)
        scale = (high - low) / top
        zero = np.rint(-low / scale)
    return (np.clip(np.rint(row / scale) + zero, 0, top) - zero) * scale


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32), (4, None), (4, 20), (8, 7)])
def test_round_to_nearest_is_its_formula(bits: int, group: int | None, symmetric: bool) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32) + np.float32(0.3)
    found = blocks_of(rows, bits, group, symmetric, "rtn")
    assert found.values.shape == rows.shape and found.scale.shape == (5, -(-96 // (group or 96)))
    size = group or 96
    want = [np.concatenate([by_hand(r[i : i + size], bits, symmetric) for i in range(0, 96, size)]) for r in rows]
    np.testing.assert_allclose(found.floats(), want, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_scale_search_has_about_the_least_error_that_there_is(bits: int, symmetric: bool) -> None:
    """Among 400 scales of either sign, or as many pairs of ends, of each group by itself."""
    x = np.random.default_rng(1).standard_t(3, (12, 32)).astype(np.float32)
    grid, nearest = (fitted_grid(x, bits, symmetric, method) for method in ("mse", "rtn"))
    top = 2**bits - 1

    def error(row: np.ndarray, scale: float, zero: float) -> float:
        return float((((np.clip(np.rint(row / scale) + zero, 0, top) - zero) * scale - row) ** 2).sum())

    total = 0.0
    for row in x:
        if symmetric:
            edge = np.abs(row).max() / 2 ** (bits - 1)
            total += min(error(row, s * f * edge, 2 ** (bits - 1)) for f in np.linspace(0.3, 1.2, 200) for s in (1, -1))
        else:
            low, high = min(row.min(), 0.0), max(row.max(), 0.0)
            spans = [(low * a, high * b) for a in np.linspace(0.3, 1, 20) for b in np.linspace(0.3, 1, 20)]
            total += min(error(row, (h - lo) / top, np.clip(np.rint(-lo * top / (h - lo)), 0, top)) for lo, h in spans)
    found, rounded = (float(((g.dequantize(g.quantize(x)) - x) ** 2).sum()) for g in (grid, nearest))
    assert found <= rounded and found <= (1.05 if symmetric and bits == 4 else 1.35) * total


def test_groups_of_nothing_and_tiny_numbers_stay_what_they_are() -> None:
    rows = np.zeros((3, 64), np.float32)
    rows[1, :32] = 1e-42  # below the least number with a full mantissa
    rows[2] = -0.5
    for symmetric in (True, False):
        for method in ("rtn", "mse"):
            found = blocks_of(rows, 4, 32, symmetric, method).floats()
            assert np.isfinite(found).all() and np.abs(found - rows).max() <= 0.5 / 15
            np.testing.assert_array_equal(found[0], 0)


def test_scales_in_float16_are_rounded_before_the_numbers_are_found() -> None:
    """By the formula; what its normal numbers do not reach stays as it is, and zeros get the least of them."""
    scale = np.array([0, 0.01, -0.01, 65504, 65519, 1e6, 6.2e-5, 6e-5, -1e-9, 1 / 3], np.float32)
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16).astype(np.float32)
    want = np.where([0, 1, 1, 1, 0, 0, 1, 0, 0, 1], half, scale)
    want[0] = 2.0**-14
    np.testing.assert_array_equal(in_float16(scale), want)
    rows = np.random.default_rng(2).standard_t(3, (16, 96)).astype(np.float32)
    for bits, symmetric in ((4, True), (4, False), (8, True), (8, False)):
        top, middle = 2**bits - 1, 2 ** (bits - 1)
        found = blocks_of(rows, bits, 32, symmetric, "rtn", "float16")
        x = rows.reshape(16, 3, 32)
        low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
        steps = (np.abs(x).max(-1) / (top / 2) if symmetric else (high - low) / top).astype(np.float32)
        steps = steps.astype(np.float16).astype(np.float32)
        zero = np.full_like(steps, middle) if symmetric else np.clip(np.rint(-low / steps), 0, top)
        q = np.clip(np.rint(x / steps[..., None]) + zero[..., None], 0, top)
        np.testing.assert_array_equal(found.scale, steps)
        np.testing.assert_array_equal(found.floats(), ((q - zero[..., None]) * steps[..., None]).reshape(16, 96))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_in_float16_lose_nothing(bits: int, symmetric: bool) -> None:
    """Within a few thousandths of the error, by any method."""
    rng = np.random.default_rng(3)
    rows, x = rng.standard_normal((24, 128)).astype(np.float32), rng.standard_normal((128, 300))
    hessian = x @ x.T
    rows[3] = 0

    def error(scales: str, method: str) -> float:
        if method == "gptq":
            found = gptq(rows, hessian, bits, 32, symmetric, False, scales)[0]
        else:
            found = blocks_of(rows, bits, 32, symmetric, method, scales)
        if scales == "float16":
            np.testing.assert_array_equal(found.scale, found.scale.astype(np.float16))
        return float((((found.floats() - rows) @ x) ** 2).sum())

    for method in ("rtn", "mse", "gptq"):
        assert error("float16", method) < 1.02 * error("float32", method), method


# ---- weight-only


@pytest.mark.parametrize(
    "method",
    [
        WeightOnly(), WeightOnly(symmetric=False, method="rtn"), WeightOnly(bits=8), WeightOnly(bits=8, group=None, symmetric=False),
        WeightOnly(group=40), WeightOnly(group=7, symmetric=False), WeightOnly(bits=8, group=1000),
    ],
    ids=repr,
)  # fmt: skip
def test_products_and_tables_are_stored_in_few_bits(method: WeightOnly) -> None:
    artifact = compiled(method)
    found, (told,) = steps(artifact), artifact.manifest["recipe"]["quantize"]["methods"]
    assert found["gemm_f32q"] == 3 and not found["gemm_f32"]
    assert told["kind"] == "weight_only" and told["group"] == method.group and len(told["names"]) == 4
    weights = 2 * WORDS * WIDTH + 2 * 160 * WIDTH
    parts = weights / (method.group or WIDTH) * (2 if method.symmetric else 3)
    assert artifact.linear.weights.size <= (weights * method.bits / 8 + parts) * 1.25 + 4000
    assert decibels(artifact) > (35 if method.bits == 8 else 14)
    assert artifact.manifest["verified"]["tolerance"] == method.tolerance


def constants(artifact: Any, operand: int) -> set[str]:
    """The types of an operand of its products."""
    plan = artifact.linear.plan
    values = [plan.values[s.args[operand].index] for b in plan.blocks for s in b.steps if s.target == "gemm_f32q"]
    return {f"float{value.dtype_bits}" for value in values}


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_stored_in_what_the_recipe_says(symmetric: bool) -> None:
    sizes = {}
    for scales in ("float16", "float32"):
        artifact = compiled(WeightOnly(scales=scales, symmetric=symmetric))
        assert constants(artifact, 2) == {scales}
        assert [row.get("scales", "float32") for row in artifact.manifest["weights"]] == [scales]
        assert artifact.manifest["recipe"]["quantize"]["methods"][0]["scales"] == scales
        assert not artifact.manifest["recipe"]["quantize"]["notes"]
        sizes[scales] = artifact.linear.weights.size
    groups = (2 * WORDS * WIDTH + 2 * 160 * WIDTH) // 32
    assert sizes["float32"] - sizes["float16"] >= 2 * groups - 200  # tensors begin on cache lines


def test_a_weight_with_scales_beyond_float16_keeps_float32() -> None:
    """And is named; others do not."""
    module = language()
    with torch.no_grad():
        module.up.weight[5] *= 1e-5
        module.down.weight[7] = 0
    artifact = compiled(WeightOnly(), module)
    (note,) = artifact.manifest["recipe"]["quantize"]["notes"]
    assert note == "scales of linear1 stay float32: some are beyond float16's normal numbers, 6.1e-05 to 65504"
    assert constants(artifact, 2) == {"float16", "float32"}
    assert {row.get("scales") for row in artifact.manifest["weights"]} == {"float16", None}


def test_the_result_is_that_of_the_dequantized_weights() -> None:
    """To float32's rounding: activations are not touched."""
    artifact, module = compiled(WeightOnly(group=40, symmetric=False)), language()
    with torch.no_grad():
        for layer in (module.table, module.up, module.down, module.head):
            blocks = blocks_of(layer.weight.numpy(), 4, 40, False, "mse", "float16")
            layer.weight.copy_(torch.from_numpy(blocks.floats()))
        want = module(IDS).numpy()
    np.testing.assert_allclose(run(artifact, IDS.numpy()), want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    "method",
    [WeightOnly(), WeightOnly(group=40, symmetric=False), WeightOnly(bits=8, group=None)],
    ids=repr,
)
def test_a_tied_head_and_its_table_are_stored_once(method: WeightOnly) -> None:
    tied, untied = (compiled(method, language(each)) for each in (True, False))
    rows = WORDS * WIDTH * method.bits / 8
    assert tied.linear.weights.size <= untied.linear.weights.size - rows
    assert steps(tied)["gather_f32q"] == 1 and steps(untied)["gather_f32q"] == 0
    module = language(True)
    with torch.no_grad():
        for layer in (module.table, module.up, module.down):
            blocks = blocks_of(layer.weight.numpy(), method.bits, method.group, method.symmetric, "mse", "float16")
            layer.weight.copy_(torch.from_numpy(blocks.floats()))
        want = module(IDS).numpy()
    np.testing.assert_allclose(run(tied, IDS.numpy()), want, atol=2e-5 * np.abs(want).max())


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Whole multiples of a 127th of the largest of each 32 numbers of a row."""
    blocks = x.reshape(-1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale.clamp(min=1e-30)).round() * scale).reshape(x.shape)


@pytest.mark.parametrize(
    "method",
    [WeightOnly(activations="int8"), WeightOnly(group=64, symmetric=False, activations="int8"), WeightOnly(group=None, activations="int8")],
    ids=repr,
)  # fmt: skip
def test_activations_are_rounded_to_8_bits(method: WeightOnly) -> None:
    """As the formula says, in front of products alone: the result is that of rounded inputs and dequantized weights."""
    artifact, module = compiled(method), language()
    found, (told,) = steps(artifact), artifact.manifest["recipe"]["quantize"]["methods"]
    assert found["gemm_s8q4"] == 3 and not found["gemm_f32q"] and told["activations"] == "int8"
    with torch.no_grad():
        for layer in (module.table, module.up, module.down, module.head):
            blocks = blocks_of(layer.weight.numpy(), 4, method.group, method.symmetric, "mse", "float16")
            layer.weight.copy_(torch.from_numpy(blocks.floats()))
        x = module.table(IDS)
        y = module.norm(x + module.down(rounded(torch.relu(module.up(rounded(x))))))
        want, plain = module.head(rounded(y)).numpy(), module(IDS).numpy()
    got, largest = run(artifact, IDS.numpy()), np.abs(want).max()
    error = np.abs(got - want)  # a number near a tie may be rounded the other way
    assert np.median(error) < 1e-6 * largest and error.max() < 0.01 * largest < np.abs(got - plain).max() * 10


def test_activations_of_any_batch_and_of_layers_that_read_the_same() -> None:
    """Rounded once for each product, whatever the batch; a depth that is no multiple of 32."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.left, self.right = nn.Linear(70, 48), nn.Linear(70, 48, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.left(x)) + self.right(x)

    method = WeightOnly(activations="int8", symmetric=False)
    module, x = Net().eval(), torch.randn(3, 5, 70)
    artifact = compile_model(module, [x], dynamic=["x:0=1..16"], recipe=Recipe(quantize=method))
    assert steps(artifact)["gemm_s8q4"] == 2 and set(steps(artifact)) == {"gemm_s8q4"}
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    for rows in (1, 9):
        x = torch.randn(rows, 5, 70)
        got = next(iter(program.run({"x": x.numpy()}).values()))
        with torch.no_grad():
            assert np.abs(got - module(x).numpy()).max() < 0.25 * np.abs(got).max()


def test_a_tied_head_is_stored_once_also_with_rounded_activations() -> None:
    tied = compiled(WeightOnly(activations="int8"), language(True))
    assert steps(tied)["gather_f32q"] == 1 and steps(tied)["gemm_s8q4"] == 3
    assert tied.linear.weights.size == compiled(WeightOnly(), language(True)).linear.weights.size


def test_scale_search_loses_less_than_rounding() -> None:
    searched, rounded = (decibels(compiled(WeightOnly(method=method))) for method in ("mse", "rtn"))
    assert searched > rounded + 0.3


def test_what_stays_in_float_is_named_with_its_reason() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(8, 8, 3, padding=1), nn.LSTM(8, 8, batch_first=True)
            self.narrow, self.head = nn.Linear(1, 8), nn.Linear(8, 64)

        def forward(self, x: torch.Tensor) -> Any:
            y, _ = self.lstm(self.conv(x).transpose(1, 2))
            y = y + (y @ y.transpose(1, 2)).softmax(-1) @ y
            return self.head(y + self.narrow(x.transpose(1, 2)[..., :1]))

    torch.manual_seed(0)
    artifact = compile_model(Net().eval(), [torch.randn(1, 8, 6)], recipe=Recipe(quantize=WeightOnly(bits=8)))
    reasons = {each["kind"]: each["reason"] for each in artifact.manifest["recipe"]["quantize"]["float_layers"]}
    assert reasons["convolution over 1 axis"] == reasons["LSTM"] == "no kernel reads its weights in 8 bits"
    assert (
        "so short that their scales would outweigh" in reasons["product"] or reasons["attention"] == "it has no weights"
    )
    assert steps(artifact)["gemm_f32q"] == 1


def test_a_recipe_of_several_methods(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, WORDS, (8, 2, 9))
    layers = {"linear*_1*": WeightOnly(bits=8), "embedding": Half(), "linear*": Int8(method="mse")}
    recipe = Recipe(quantize=None, layers=layers, calibration=data)
    quantize = compile_model(language(), [IDS], recipe=recipe).manifest["recipe"]["quantize"]
    names = {each["kind"]: each["names"] for each in quantize["methods"]}
    assert set(names) == {"weight_only", "half", "int8"}
    assert quantize["layers"] == 4 == sum(map(len, names.values())) and quantize["calibration_inputs"] == 8
    assert not quantize["float_layers"]


def test_a_result_beyond_the_tolerance_is_refused() -> None:
    with pytest.raises(
        maas_rt.VerificationError, match="take 8 bits or smaller groups, .* or admit more; nothing was written"
    ):
        compiled(WeightOnly(tolerance=1e-4))


def test_a_build_in_float_that_differs_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the recipe would admit."""
    from maas_rt.compiler.passes import lower_matmuls

    wrong = lower_matmuls.__globals__["make_kernel_call"]

    def scaled(contract: str, args: Any, *rest: Any, **more: Any) -> Any:
        if contract == "gemm_f32":
            from maas_rt.compiler.passes._ops import constant
            from maas_rt.compiler.passes._rewrite import array_of

            args = [args[0], constant(array_of(args[1]) * np.float32(1.01))]
        return wrong(contract, args, *rest, **more)

    monkeypatch.setitem(lower_matmuls.__globals__, "make_kernel_call", scaled)
    with pytest.raises(maas_rt.VerificationError, match="differs"):
        compiled(WeightOnly(tolerance=10.0))


def test_a_model_with_states() -> None:
    """Whatever needs no data has no need of states, either; what does is told so."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.into, self.on = nn.Linear(32, 64), nn.Linear(64, 64)
            self.register_buffer("past", torch.zeros(1, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            now = torch.tanh(self.into(x) + self.on(self.past))
            self.past.copy_(now)
            return now

    x = torch.randn(1, 32)
    artifact = compile_model(Recurrent().eval(), [x], recipe=Recipe(quantize=WeightOnly(bits=8)))
    assert steps(artifact)["gemm_f32q"] == 2 and artifact.manifest["states"]
    assert artifact.manifest["verified"]["status"] == "passed" and decibels(artifact) > 35
    with pytest.raises(maas_rt.CompileError, match="a model with states cannot be compressed by calibration yet"):
        recipe = Recipe(quantize=WeightOnly(method="gptq"), calibration=[x.numpy()])
        compile_model(Recurrent().eval(), [x], recipe=recipe)


def test_dynamic_sizes_without_data() -> None:
    artifact = compile_model(language(), [IDS], dynamic=["ids:1=1..20"], recipe=Recipe(quantize=WeightOnly()))
    assert artifact.manifest["verified"]["runs"] > 2
    assert run(artifact, IDS.numpy()[:, :3]).shape == (2, 3, WORDS)


# ---- dynamic


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_products_on_ranges_that_a_run_finds(granularity: str) -> None:
    artifact = compiled(Int8Dynamic(granularity=granularity))
    found = steps(artifact)
    assert found["gemm_u8s8"] == 3 and not found["gemm_f32"]
    assert (found["dynamic_quantize_u8"] > 0) == (granularity == "tensor")
    assert decibels(artifact) > 35
    reasons = [each["reason"] for each in artifact.manifest["recipe"]["quantize"]["float_layers"]]
    assert reasons == ["there is no kernel of 8 bits for it"]  # the table


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_why_convolutions_have_no_ranges_of_each_run(granularity: str) -> None:
    layers: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "over 1 axis": (nn.Conv1d(8, 8, 3), torch.randn(1, 8, 16)),
        "transposed": (nn.ConvTranspose2d(8, 8, 2, stride=2), torch.randn(1, 8, 6, 6)),
        "over 2 axes": (nn.Conv2d(8, 8, 3), torch.randn(1, 8, 9, 9)),
    }
    for name, (layer, x) in layers.items():
        net = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(16))
        net(x)
        recipe = Recipe(quantize=Int8Dynamic(granularity=granularity))
        record = compile_model(net.eval(), [x], recipe=recipe, verify=False).manifest["recipe"]["quantize"]
        reasons = [each["reason"] for each in record["float_layers"]]
        if name == "over 2 axes":
            assert reasons == ([] if granularity == "tensor" else [reasons[0]]) and not any(
                "kernel" in r for r in reasons
            )
        else:
            assert reasons == [
                "ranges of each run are for products and convolutions over two axes: Int8 takes it, with calibration data"
            ]


def test_rows_have_ranges_of_their_own() -> None:
    """By the formula: a row that is a thousand times smaller than the others keeps its steps."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=False)
    x = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    x[3] *= 1e-3
    x[4] = 0
    artifact = compile_model(layer, [torch.from_numpy(x)], recipe=Recipe(quantize=Int8Dynamic()))
    w = layer.weight.detach().numpy()
    step = np.abs(w).max(1, keepdims=True) / 127
    low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
    scale = np.where(high > low, (high - low) / 255, 1)
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(x / scale) + zero, 0, 255)
    want = ((q - zero) * scale) @ (np.clip(np.rint(w / step), -127, 127) * step).T
    got = run(artifact, x)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0.02)
    np.testing.assert_array_equal(got[4], 0)


def test_convolutions_and_recurrent_layers_with_one_range_a_tensor() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.LSTM(64, 32), nn.Linear(48, 8)
            self.gru = nn.GRU(32, 24, bidirectional=True)

        def forward(self, x: torch.Tensor) -> Any:
            y, _ = self.lstm(torch.relu(self.conv(x)).flatten(2).transpose(0, 1))
            return self.head(self.gru(y)[0])

    torch.manual_seed(0)
    module, x = Net().eval(), torch.randn(2, 3, 8, 8)
    whole = compile_model(module, [x], recipe=Recipe(quantize=Int8Dynamic(granularity="tensor")))
    found = steps(whole)
    assert (found["conv2d_u8s8"], found["lstm_u8s8"], found["gru_u8s8"], found["gemm_u8s8"]) == (1, 1, 1, 1)
    assert decibels(whole) > 30 and not whole.manifest["recipe"]["quantize"]["float_layers"]
    rows = compile_model(module, [x], recipe=Recipe(quantize=Int8Dynamic()))
    reasons = [each["reason"] for each in rows.manifest["recipe"]["quantize"]["float_layers"]]
    assert len(reasons) == 3 and all("granularity tensor takes it" in reason for reason in reasons)


# ---- half


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_and_tables_in_16_bits(dtype: str) -> None:
    artifact = compiled(Half(dtype=dtype))
    plain = compile_model(language(), [IDS])
    module = language()
    matrices = [each for each in module.parameters() if each.ndim == 2]
    saved = plain.linear.weights.size - artifact.linear.weights.size
    assert saved >= 1.9 * sum(each.numel() for each in matrices)
    found = steps(artifact)
    assert found["gemm_f32h"] == len(matrices) - 1 and not found["gemm_f32"]
    assert {(each["bits"], each["integer"]) for each in artifact.manifest["weights"]} == {(16, False)}
    assert decibels(artifact) > (60 if dtype == "float16" else 42)
    with torch.no_grad():
        for each in matrices:
            each.copy_(each.to(getattr(torch, dtype)).float())
        want = module(IDS).numpy()
    np.testing.assert_allclose(run(artifact, IDS.numpy()), want, atol=2e-5 * np.abs(want).max())


def test_what_float16_does_not_hold_stays() -> None:
    module = language()
    with torch.no_grad():
        module.table.weight[3, 4] = 1e5
    told = compiled(Half(), module).manifest["recipe"]["quantize"]["float_layers"]
    assert [each["reason"] for each in told] == ["its weights reach 1e+05, beyond float16"]
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight[1, 2] = -7e4
    with pytest.raises(maas_rt.CompileError, match=r"its weights reach 7e\+04, beyond float16"):
        compile_model(layer, [torch.ones(2, 8)], recipe=Recipe(quantize=Half()))
    wide = compile_model(layer, [torch.ones(2, 8)], recipe=Recipe(quantize=Half(dtype="bfloat16")))
    assert steps(wide)["gemm_f32h"] == 1


# ---- bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WeightOnly(bits=3), "bits is 3, expected 4 or 8"),
        (lambda: WeightOnly(group=0), "group is 0, expected a number of weights"),
        (lambda: WeightOnly(group=True), "group is True"),
        (lambda: WeightOnly(scales="bfloat16"), "scales is 'bfloat16', expected float16 or float32"),
        (lambda: WeightOnly(activations="int4"), "activations is 'int4', expected float or int8"),
        (lambda: WeightOnly(activations="int8", bits=8), "are for weights of 4 bits, and bits is 8: take Int8Dynamic"),
        (lambda: WeightOnly(activations="int8", group=48), "groups of a multiple of 32, or None, and group is 48"),
        (lambda: WeightOnly(method="best"), "method is 'best', expected one of rtn, mse, gptq, awq"),
        (lambda: WeightOnly(tolerance=float("nan")), "expected a number above 0"),
        (lambda: WeightOnly(tolerance=float("inf")), "tolerance is inf, expected a number above 0, and a finite one"),
        (lambda: Int8Dynamic(granularity="channel"), "granularity is 'channel', expected row or tensor"),
        (lambda: Half(dtype="float8"), "dtype is 'float8', expected float16 or bfloat16"),
        (
            lambda: Recipe(quantize="int4"),
            "Recipe: quantize is 'int4', expected one of Int8, Int8Dynamic, WeightOnly, Half",
        ),
        (lambda: Recipe(layers={"head": 4}), r"Recipe: layers\['head'\] is 4"),
    ],
)
def test_options_are_checked(make: Any, words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        make()


def test_weights_that_are_not_finite_stay() -> None:
    module = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)).eval()
    with torch.no_grad():
        module[2].weight[0, 0] = torch.inf
    recipe = Recipe(quantize=WeightOnly())
    quantize = compile_model(module, [torch.ones(1, 32)], recipe=recipe, verify=False).manifest["recipe"]["quantize"]
    assert [each["reason"] for each in quantize["float_layers"]] == ["its weights are not finite numbers"]


def test_a_model_of_few_bits_already_stays_as_it_is() -> None:
    from onnx import TensorProto

    from tests.compiler.test_import_onnx import model, node

    constants = {"q": np.arange(-60, 68, dtype=np.int8).reshape(32, 4), "s": np.full(4, 0.01, np.float32)}
    nodes = [node("DequantizeLinear", "q s", "w", axis=1), node("MatMul", "x w", "y")]
    proto = model(nodes, {"x": (TensorProto.FLOAT, [1, 32])}, ["y"], constants)
    quantize = compile_model(proto, recipe=Recipe(quantize=WeightOnly())).manifest["recipe"]["quantize"]
    assert quantize["notes"] == ["the model is quantized already, and stays as it is"]

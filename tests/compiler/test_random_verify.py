"""Models around noise: both sides are given the same, so that they agree to the usual tolerance, and an error of 1 % is told by its operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler import Int8, Recipe, compile
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.importers._noise import Noise
from maas_rt.compiler.verify._against import verify_file
from onnx import helper
from torch import nn
from tvm import relax

import maas_rt
from tests.compiler._distributions import unrelated


def exported(module: nn.Module, *inputs: torch.Tensor, **options: Any) -> torch.export.ExportedProgram:
    """In training mode, which compile(module) would leave."""
    return torch.export.export(module.train(), inputs, **options)


class Sampler(nn.Module):
    """A VAE's: mean and log variance, then the decoder of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log = self.encoder(x).chunk(2, -1)
        z = mean + torch.exp(0.5 * log) * torch.randn_like(mean)
        return self.decoder(z), torch.distributions.Normal(mean, log.exp(), validate_args=False).rsample()


class Block(nn.Module):
    """Every layer that drops in training, and a batch norm that learns meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.layers = nn.Sequential(
            nn.Conv1d(5, 5, 3, padding=1), nn.BatchNorm1d(5), nn.Dropout1d(0.5), nn.AlphaDropout(0.2), nn.RReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(self.attention(x))
        return (
            y + F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.3, is_causal=True)[:, 0]
        )


class Steps(nn.Module):
    """Noise in while_loop, scan, map and cond."""

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from torch._higher_order_ops.map import map as map_over
        from torch._higher_order_ops.scan import scan
        from torch._higher_order_ops.while_loop import while_loop

        def step(i: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return i + 1, v + torch.randn_like(v)

        _, walked = while_loop(lambda i, v: i < n, step, (torch.zeros((), dtype=torch.int64), x))
        last, rows = scan(lambda s, e: (s + torch.rand_like(s), e * torch.rand_like(e)), x[0], x)
        mapped = map_over(lambda row: row + torch.rand_like(row), x)
        branch = torch.cond(n > 2, lambda v: v + torch.randn_like(v), lambda v: v + torch.rand_like(v), (x,))
        return walked, last, rows, mapped, branch


def test_samplers_and_layers_in_training() -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    artifact = compile(Sampler(), (x,), dynamic={"x": {0: (1, 9)}})
    assert artifact.manifest["verified"]["noise"] == "shared, seed 0" and not artifact.manifest["inputs"][1:]
    block = exported(Block(), torch.randn(2, 5, 8))
    artifact = compile(block)
    assert artifact.manifest["verified"]["max_relative_error"] <= 1e-4 and artifact.manifest["states"]
    one = compile(exported(nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.4)), torch.randn(64, 64)))
    zeros = [
        (maas_rt.load(one).run({"input": x}, seed=k)["output_0"] == 0)
        for k in (1, 2)
        for x in [np.ones((64, 64), np.float32)]
    ]
    assert 0.37 < zeros[0].mean() < 0.43 and unrelated(*[z.astype(float) for z in zeros])


@pytest.mark.parametrize("count", [3, 0])
def test_loops_of_torch(count: int) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    artifact = compile(torch.export.export(Steps(), (x, torch.tensor(count))))
    out = maas_rt.load(artifact).run({"x": x.numpy(), "n": np.array(count)}, seed=1)
    assert (out["output_0"] == x.numpy()).all() == (count == 0)


class Recurrent(nn.Module):
    """Dropout between layers; torch's own decomposition of RNN forgets it."""

    def __init__(self) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"input_size": 3, "hidden_size": 4, "num_layers": 2, "dropout": 0.4}
        self.rnn, self.gru = nn.RNN(**sizes, bidirectional=True), nn.GRU(**sizes)
        self.lstm = nn.LSTM(**sizes, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.rnn(x)[0], self.gru(x)[0], self.lstm(x)[0]


def test_dropout_between_recurrent_layers() -> None:
    artifact = compile(exported(Recurrent(), torch.randn(5, 2, 3)))
    assert artifact.manifest["draws"] and artifact.manifest["verified"]["max_relative_error"] <= 1e-5
    model, x = maas_rt.load(artifact), np.ones((5, 2, 3), np.float32)
    one, two, again = (model.run({"x": x}, seed=seed) for seed in (1, 2, 1))
    assert all((one[name] == again[name]).all() and (one[name] != two[name]).any() for name in one)


class Rare(nn.Module):
    """In half precision, of sizes that a run decides, of a range that is a size."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n = x.shape[0]
        half = x.half()
        return (
            torch.rand_like(half) + half, torch.randn(n, 2, dtype=torch.bfloat16), F.dropout(half, 0.3), half.bernoulli(0.4),
            torch.randint(0, n, (5,)), torch.randperm(n), torch.multinomial(x.abs() + 0.1, 2), half.clone().exponential_(),
            F.gumbel_softmax(half),
            torch.randn_like(half).float(), half.normal_(0.1, 0.3).float(), torch.empty_like(half).uniform_(-1, 2).float(),
        )  # fmt: skip


def test_types_and_dynamic_sizes() -> None:
    artifact = compile(Rare(), (torch.randn(6, 4),), dynamic={"x": {0: (3, 64)}})
    model = maas_rt.load(artifact)
    for n in (3, 64):
        out = model.run({"x": np.ones((n, 4), np.float32)}, seed=n)
        assert sorted(out["output_5"]) == list(range(n)) and out["output_4"].max() < n
        assert (out["output_0"].astype(float) < 2).all() and (out["output_7"] > 0).all()


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled side's noise is 1 % too large."""
    right = Noise.call

    def wrong(self: Noise, emit: Any, kind: str, shape: Any, dtype: str, *more: Any, **options: Any) -> Any:
        drawn = right(self, emit, kind, shape, dtype, *more, **options)
        return drawn if kind == "bits" else emit(relax.op.multiply(drawn, relax.const(1.01, dtype)))

    monkeypatch.setattr(Noise, "call", wrong)


def test_an_error_of_one_per_cent_is_found_in_torch(off: None) -> None:
    with pytest.raises(maas_rt.VerificationError, match=r"operator randn_like.*aten\.randn_like") as error:
        compile(Sampler(), (torch.randn(3, 6),))
    assert 5e-3 < error.value.relative_error < 2e-2


def onnx_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((8, 4), dtype=np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["mean"], name="project"),
            helper.make_node("RandomNormalLike", ["mean"], ["noise"], name="sample", scale=0.5),
            helper.make_node("Add", ["mean", "noise"], ["y"], name="shift"),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_error_of_one_per_cent_is_found_in_onnx(off: None) -> None:
    with pytest.raises(maas_rt.VerificationError, match=r"operator sample \(RandomNormalLike\)"):
        compile(onnx_model())


def test_files_recipes_and_prefixes(tmp_path: Path) -> None:
    onnx.save(onnx_model(), tmp_path / "m.onnx")
    artifact = compile(str(tmp_path / "m.onnx"))
    artifact.save(tmp_path / "m.mrt")
    report = verify_file(tmp_path / "m.mrt", str(tmp_path / "m.onnx"))
    assert report.noise == "shared, seed 0" and report.max_relative_error < 1e-5
    x = np.random.default_rng(1).standard_normal((16, 8), dtype=np.float32)
    recipe = Recipe(quantize=Int8(calibration=[{"x": x}], tolerance=0.05))
    assert compile(str(tmp_path / "m.onnx"), recipe=recipe).manifest["verified"]["noise"] == "shared, seed 0"

    imported = import_model(str(tmp_path / "m.onnx"))
    assert imported.draws and imported.input_names == ["x"]
    whole = imported.source.run({"x": x})
    cut, name = imported.source.prefix(2)
    assert name == "sample (RandomNormalLike)" and cut.draws and not imported.source.prefix(1)[0].draws
    assert np.allclose(x @ np.zeros((8, 4)) + cut.source.run({"x": x})["noise"], whole["y"] - imported.source.prefix(1)[0].source.run({"x": x})["mean"], atol=1e-5)  # fmt: skip


def test_a_source_that_draws_unseen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the importer took for steady: a comparison with a model that moves says nothing."""
    imported = import_model(nn.Linear(3, 64), (torch.ones(2, 3),))
    steady = imported.source.run
    noise = np.random.default_rng(0)
    monkeypatch.setattr(
        imported.source,
        "run",
        lambda inputs: {k: v + noise.standard_normal(v.shape, np.float32) for k, v in steady(inputs).items()},
    )
    with pytest.raises(maas_rt.VerificationError, match="gives another output output_0 each time"):
        compile_imported(imported, CompileOptions())


def test_a_model_without_chance_is_as_before() -> None:
    artifact = compile(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), (torch.randn(2, 3),))
    assert "draws" not in artifact.manifest and "noise" not in artifact.manifest["verified"]


def test_a_graph_that_noise_does_not_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.importers.torch import _drawn

    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda v: v + torch.rand_like(v), lambda v: v - 1, (x,))

    monkeypatch.setattr(_drawn, "_NESTED", {})
    with pytest.raises(maas_rt.CompileError, match="random operators in a graph of cond.*--no-verify") as caught:
        compile(exported(Branch(), torch.randn(3)))
    assert "\n" not in str(caught.value)

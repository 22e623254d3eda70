"""Tuning: what is tried, that the choice reaches the plan and changes no result, and that measurements are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import Tune
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.passes import KernelCall
from maas_rt.compiler.tune._candidates import Task, label
from maas_rt.compiler.tune._measure import Bench
from onnx import TensorProto, helper
from torch import nn

import maas_rt
from maas_rt import InvalidArgumentError
from tests.compiler.test_import_onnx import node

X = np.random.default_rng(0).standard_normal((1, 24, 20, 20)).astype(np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(24, 40, 3, 1, 1), nn.ReLU(), nn.Conv2d(40, 40, 3, 1, 1), nn.SiLU(), nn.Conv2d(40, 40, 3, 1, 1), nn.SiLU(),
        nn.Conv2d(40, 48, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def tuned(cache: Path, **options: Any) -> Any:
    return compile_model(network(), [torch.from_numpy(X)], tune=Tune(cache=str(cache), **options))


def steps(artifact: Any) -> list[tuple[str, str]]:
    every = [step for block in artifact.linear.plan.blocks for step in block.steps]
    return [(step.target, step.hint) for step in every if step.target.startswith(("conv2d", "gemm"))]


class Scripted:
    """Bench.quickest replaced: takes the last candidate whose label ends with one of `wanted`, and records what it was asked."""

    def __init__(self, *wanted: str) -> None:
        self.wanted = wanted
        self.asked: list[tuple[str, list[str]]] = []

    def __call__(self, task: Task, calls: Sequence[KernelCall]) -> tuple[int, list[float]]:
        labels = [label(call) for call in calls]
        self.asked.append((task.text, labels))
        chosen = [i for i, each in enumerate(labels) if each.endswith(self.wanted)]
        return (chosen[-1] if chosen else 0), [1.0] * len(calls)


def script(monkeypatch: pytest.MonkeyPatch, *wanted: str) -> Scripted:
    scripted = Scripted(*wanted)
    monkeypatch.setattr(Bench, "quickest", lambda bench, task, calls, until: scripted(task, calls))
    return scripted


def test_measured_choices_change_no_result(tmp_path: Path) -> None:
    artifact = tuned(tmp_path)  # verified by the compile itself
    tuning = artifact.manifest["tuning"]
    assert tuning["untuned"] == 0 and len(tuning["steps"]) == 5 and tuning["threads"] == 1 and tuning["cpu"]
    assert len(list(tmp_path.iterdir())) == 4  # the second and the third convolution are alike
    with torch.no_grad():
        want = network()(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(maas_rt.load(artifact, threads=1)(X), want, rtol=1e-4, atol=1e-5)


def test_choices_travel_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = script(monkeypatch, "tile=2", "block_kib=320", "depth=256")
    artifact = tuned(tmp_path)
    winograd = ("conv2d_winograd_f32", "block_kib=320")
    assert steps(artifact) == [winograd, winograd, winograd, ("conv2d_f32", "depth=256"), ("gemm_f32", "depth=256")]
    winograd_text = "conv2d_winograd_f32 tile=2 block_kib=320"
    assert [step["choice"] for step in artifact.manifest["tuning"]["steps"]] == [
        *[winograd_text] * 3, "conv2d_f32 depth=256", "gemm_f32 depth=256",
    ]  # fmt: skip
    algorithms = [set(labels) for _, labels in scripted.asked if any("tile=4" in each for each in labels)]
    assert {"conv2d_f32", "conv2d_winograd_f32 tile=2", "conv2d_winograd_f32 tile=4"} in algorithms


def test_what_was_timed_is_not_timed_again_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = script(monkeypatch, "tile=4", "rows_kib=128")
    first = tuned(tmp_path).to_bytes()
    asked = len(scripted.asked)
    assert tuned(tmp_path).to_bytes() == first and len(scripted.asked) == asked
    tuned(tmp_path, threads=2)
    assert len(scripted.asked) == 2 * asked  # other threads are another measurement


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', None])
def test_a_damaged_cache_is_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None) -> None:
    scripted = script(monkeypatch)
    tuned(tmp_path)
    asked = len(scripted.asked)
    for path in tmp_path.iterdir():
        entry = json.loads(path.read_text())
        path.write_text(json.dumps({**entry, "choice": "conv9d"}) if damage is None else damage)
    tuned(tmp_path)
    assert len(scripted.asked) == 2 * asked


def test_a_spent_budget_leaves_the_rest_to_the_estimates(tmp_path: Path) -> None:
    artifact = tuned(tmp_path, budget=1e-9)
    assert list(tmp_path.iterdir()) == []
    assert artifact.manifest["tuning"] == {**artifact.manifest["tuning"], "steps": [], "untuned": 5}
    plain = compile_model(network(), [torch.from_numpy(X)], verify=False)
    assert steps(artifact) == steps(plain) and "tuning" not in plain.manifest


def test_an_interruption_keeps_what_was_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = script(monkeypatch)

    def interrupted(bench: Bench, task: Task, calls: Sequence[KernelCall], until: float) -> tuple[int, list[float]]:
        if len({text for text, _ in scripted.asked} | {task.text}) > 2:
            raise KeyboardInterrupt
        return scripted(task, calls)

    monkeypatch.setattr(Bench, "quickest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    before = {text for text, _ in scripted.asked}
    later = script(monkeypatch)
    assert tuned(tmp_path).manifest["tuning"]["untuned"] == 0
    assert before.isdisjoint(text for text, _ in later.asked)


def test_a_dynamic_batch_and_image_are_tuned_at_usual_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = script(monkeypatch, "tile=4", "block_kib=1280", "depth=768")
    dynamic = ["input:0=1..8", "input:2=16..64", "input:3=16..64"]
    artifact = compile_model(
        network(), [torch.from_numpy(X)], dynamic=dynamic, tune=Tune(cache=str(tmp_path)), verify=False
    )
    first = next(json.loads(text) for text, _ in scripted.asked if '"channels": [24, 40]' in text)
    assert first["x"] == [1, 32, 32, 24] and first["y"] == [1, 32, 32, 40]
    assert ("conv2d_winograd_f32", "block_kib=1280") in steps(artifact)


def test_progress_says_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch)
    told: list[tuple[str, float]] = []
    compile_model(
        network(), [torch.from_numpy(X)], verify=False, tune=Tune(cache=str(tmp_path)), progress=lambda *each: told.append(each)
    )  # fmt: skip
    said = [what for what, _ in told if what.startswith("tune ")]
    assert said[0] == "tune 1 of 4, budget 10 min" and said[3].startswith("tune 4 of 4, about ")
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)


@pytest.mark.parametrize(
    "wrong", [{"budget": 0}, {"budget": -1.0}, {"threads": 0}, {"threads": 10**6}, {"threads": 1.0}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="Tune: "):
        Tune(**wrong)


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch)
    (tmp_path / "file").write_text("")
    with pytest.raises(maas_rt.Error, match=r"file/cache, where tuning keeps its times, could not be made"):
        tuned(tmp_path / "file" / "cache")


def test_steps_of_one_name_and_steps_in_branches_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(24, 32), nn.Linear(24, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: self.b(x).relu(), (x,))

    script(monkeypatch, "depth=768")
    artifact = compile_model(Branches().eval(), [torch.ones(3, 24)], tune=Tune(cache=str(tmp_path)))
    assert steps(artifact) == [("gemm_f32", "depth=768")] * 2
    assert len(artifact.manifest["tuning"]["steps"]) == 2


def test_extents_that_symbols_decide_count_as_what_they_usually_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(24, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.linear(x.reshape(-1, 24)))

    scripted = script(monkeypatch)
    for shape, dynamic, rows in [
        ((4, 7, 24), ["x:0=1..8"], 7),
        ((1, 8, 24), ["x:1=2..64"], 32),
        ((1, 8, 24), ["x:1=2..9"], 9),
        ((4, 40, 24), ["x:0=3..8", "x:1=40..64"], 120),
    ]:
        example = {"x": torch.ones(shape)}
        compile_model(Rows().eval(), example, dynamic=dynamic, tune=Tune(cache=str(tmp_path)), verify=False)
        assert json.loads(scripted.asked[-1][0])["x"] == [rows, 24]


def test_a_choice_that_another_process_made_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rival = tmp_path / "rival"
    script(monkeypatch, "rows_kib=512", "block_kib=1280")
    wanted = tuned(rival).to_bytes()
    scripted = Scripted()

    def overtaken(bench: Bench, task: Task, calls: Sequence[KernelCall], until: float) -> tuple[int, list[float]]:
        for path in rival.iterdir():
            (tmp_path / "own" / path.name).write_bytes(path.read_bytes())
        return scripted(task, calls)

    monkeypatch.setattr(Bench, "quickest", overtaken)
    assert tuned(tmp_path / "own").to_bytes() == wanted
    assert len({text for text, _ in scripted.asked}) == 1  # all others were there by then


def test_large_weights_are_packed_for_two_candidates_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.tune import _measure

    races: list[int] = []
    race = Bench._race
    monkeypatch.setattr(
        Bench, "_race", lambda bench, task, calls, until: (races.append(len(calls)), race(bench, task, calls, until))[1]
    )
    monkeypatch.setattr(_measure, "_MEMORY", 0)
    artifact = tuned(tmp_path)
    assert artifact.manifest["tuning"]["untuned"] == 0 and set(races) == {2} and len(races) > 4


def test_a_filter_with_a_nan_has_no_winograd_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        module.weight[0, 0, 1, 1] = torch.nan
    scripted = script(monkeypatch)
    compile_model(module.eval(), [torch.ones(1, 8, 9, 9)], tune=Tune(cache=str(tmp_path)), verify=False)
    assert scripted.asked and not any("winograd" in each for _, labels in scripted.asked for each in labels)


ACTS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "clip": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("residual", [False, True])
def test_a_small_product_may_be_generated_code(
    act: str, residual: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.act = nn.Linear(24, 24), nn.Linear(24, 24), ACTS[act]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(self.first(x))
            return self.act(self.second(y) + x) if residual else self.second(y)

    scripted = script(monkeypatch, "generated")
    artifact = compile_model(Block().eval(), [torch.randn(7, 24)], tune=Tune(cache=str(tmp_path)))  # verified
    assert any("generated" in labels for _, labels in scripted.asked)
    assert {step["choice"] for step in artifact.manifest["tuning"]["steps"]} == {"generated"}
    targets = {step.target for block in artifact.linear.plan.blocks for step in block.steps}
    assert "gemm_f32" not in targets and targets


def test_a_large_product_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = script(monkeypatch)
    compile_model(nn.Linear(256, 512).eval(), [torch.randn(64, 256)], tune=Tune(cache=str(tmp_path)), verify=False)
    assert all("generated" not in labels for _, labels in scripted.asked) and scripted.asked


def sparse_bytes(residual: bool = False) -> onnx.ModelProto:
    """QDQ products with 80 % of the weights zero in blocks of 4 x 4; the first gives bytes, the other floats."""
    rng = np.random.default_rng(0)
    kept = np.kron(rng.random((32, 32)) < 0.2, np.ones((4, 4)))
    arrays = {
        "a": (rng.integers(-90, 91, (128, 128)) * kept).astype(np.int8), "s": np.float32(0.02), "z": np.uint8(128),
        "b": (rng.integers(-90, 91, (128, 128)) * kept).astype(np.int8),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "qx"), node("DequantizeLinear", "qx s z", "dx"), node("DequantizeLinear", "a s", "da"),
        node("MatMul", "dx da", "h"), node("QuantizeLinear", "h s z", "qh"), node("DequantizeLinear", "qh s z", "dh"),
        node("DequantizeLinear", "b s", "db"), node("MatMul", "dh db", "m"), *([node("Add", "m r", "y")] if residual else [node("Relu", "m", "y")]),
    ]  # fmt: skip
    names = ["x", *(["r"] if residual else [])]
    *inputs, y = (helper.make_tensor_value_info(k, TensorProto.FLOAT, [64, 128]) for k in (*names, "y"))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "net", inputs, [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("wanted", ["gemm_u8s8", "gemm_u8s8_sparse"])
def test_products_of_bytes_with_many_zeros_are_tried_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, residual: bool
) -> None:
    scripted = script(monkeypatch, wanted)
    artifact = compile_model(sparse_bytes(residual), tune=Tune(cache=str(tmp_path)))  # verified
    assert [step for step, _ in steps(artifact)] == [wanted] * 2
    assert [set(labels) for _, labels in scripted.asked] == [{"gemm_u8s8", "gemm_u8s8_sparse"}] * 2
    keys = [json.loads(text) for text, _ in scripted.asked]
    assert sorted(key.get("dtype", "float32") for key in keys) == ["float32", "uint8"]
    assert all(key["contract"] == "gemm_u8s8" and list(key["entries"]) == ["16"] for key in keys)


def test_products_of_bytes_are_timed(tmp_path: Path) -> None:
    artifact = compile_model(sparse_bytes(residual=True), tune=Tune(cache=str(tmp_path)))
    (first, second) = artifact.manifest["tuning"]["steps"]
    assert {first["choice"], second["choice"]} <= {"gemm_u8s8", "gemm_u8s8_sparse"}
    timed = [json.loads(path.read_text())["seconds"] for path in tmp_path.iterdir()]
    assert [sorted(each) for each in timed] == [["gemm_u8s8", "gemm_u8s8_sparse"]] * 2


def test_dense_products_of_bytes_have_nothing_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = sparse_bytes()
    for tensor in proto.graph.initializer:
        if tensor.name in "ab":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((128, 128), np.int8), tensor.name))
    scripted = script(monkeypatch)
    artifact = compile_model(proto, tune=Tune(cache=str(tmp_path)), verify=False)
    assert not scripted.asked and [step for step, _ in steps(artifact)] == ["gemm_u8s8"] * 2

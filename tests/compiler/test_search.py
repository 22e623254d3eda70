"""The search for a recipe within a budget: what it chooses, what it refuses, and that it goes on where it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Budget, Int8, Recipe, compress
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.search._assign import assign
from maas_rt.compiler.search._journal import Journal
from maas_rt.compiler.search._methods import methods_of
from maas_rt.compiler.search._search import layer_seconds
from maas_rt.compiler.search._sensitivity import layer_errors
from maas_rt.compiler.search._trial import Trial
from torch import nn

import maas_rt

LAYERS = 3


class Net(nn.Module):
    """The second layer adds up numbers of very different sizes: what 8 bits make of its input is far off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(16, 512), nn.Linear(512, 512), nn.Linear(512, 8)
        with torch.no_grad():
            self.first.weight[:8] *= 400
            self.second.weight[:, :8] /= 400

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.second(torch.tanh(self.first(x)) * self.first.weight[:, 0])
        return torch.as_tensor(self.third(torch.relu(hidden)))


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((32, 16), np.float32)}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Net().eval()


def fidelity(net: nn.Module, x: np.ndarray) -> Callable[[Any], float]:
    """1 less the relative error of the outputs: of the float model 1."""
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()

    def score(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> float:
        got = np.concatenate([next(iter(run({"x": x[i : i + 1]}).values())) for i in range(len(x))])
        return 1 - float(np.linalg.norm(got - want) / np.linalg.norm(want))

    return score


def found(net: nn.Module, data: Any, budget: dict[str, Any], **options: Any) -> Any:
    held_out = np.random.default_rng(1).standard_normal((16, 16), np.float32)
    options.setdefault("evaluate", fidelity(net, held_out))
    return compress(
        net,
        data,
        options.pop("evaluate"),
        {"seconds": 240, "precision": "int8", "sparsity": "none", **budget},
        example_inputs=[torch.zeros(1, 16)],
        **options,
    )


def tried_of(artifact: Any) -> list[set[str]]:
    return [set(row["layers"]) for row in artifact.report["tried"]]


@pytest.fixture(scope="module")
def whole(net: nn.Module, data: Any) -> Any:
    """All layers on 16 or 8 bits: what a wide budget of size finds. (A first layer on floats in 16 bits needs no code that makes bytes of them.)"""
    return found(net, data, {"max_drop": 0.9, "objective": "size"})


def test_a_wide_budget_takes_what_is_smallest(net: nn.Module, data: Any, whole: Any) -> None:
    report = whole.report
    assert set(report["methods"]) <= {"int8", "float16"} and sum(report["methods"].values()) == LAYERS
    eight = compile_model(net, [torch.zeros(1, 16)], recipe=Recipe(quantize=Int8(data, tolerance=1.0)))
    assert len(whole.to_bytes()) <= len(eight.to_bytes())
    assert report["bytes"]["ratio"] > 2.5 and report["bytes"]["compressed"] == whole.report["bytes"]["compressed"]
    assert report["score"]["float"] == pytest.approx(1, abs=1e-5) and 0.1 < report["score"]["compressed"] < 1
    assert whole.manifest["compression"]["score"] == report["score"]
    assert whole.manifest["verified"]["status"] == "passed"
    assert Counter(row["method"] for row in report["per_layer"]) == report["methods"]
    assert {"int8 dynamic"} not in tried_of(whole)  # costs no less
    assert json.dumps(report)


def test_a_narrow_budget_spares_those_layers_that_lose_most(net: nn.Module, data: Any, whole: Any) -> None:
    drop = 1 - whole.report["score"]["compressed"]
    artifact = found(net, data, {"max_drop": drop / 3, "objective": "size"})
    report = artifact.report
    assert report["score"]["compressed"] >= 1 - drop / 3
    assert report["methods"] != whole.report["methods"] and set(report["methods"]) <= {
        "int8",
        "int8 dynamic",
        "float16",
    }
    assert {"int8 dynamic"} in tried_of(artifact)  # as all layers on static ranges break the budget
    assert report["bytes"]["compressed"] < report["bytes"]["float"]
    assert Counter(row["method"] for row in report["per_layer"] if row["method"] != "float") == report["methods"]
    x = data["x"][:1]
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    got = maas_rt.load(artifact).run({"x": x})
    assert np.abs(next(iter(got.values())) - want).max() < 3 * drop * np.abs(want).max()


def test_no_drop_at_all_is_the_float_model(net: nn.Module, data: Any) -> None:
    artifact = found(net, data, {"max_drop": 0.0, "objective": "size"})
    assert artifact.report["methods"] == {} and artifact.manifest.get("recipe") is None
    tried = [json.dumps(row["layers"]) for row in artifact.report["tried"]]
    assert tried.count("{}") == 1 and len(tried) > 1


def test_every_method_is_tried_that_the_budget_admits(net: nn.Module, data: Any) -> None:
    report = found(net, data, {"max_drop": 5.0, "precision": "any", "sparsity": "any", "objective": "size"}).report
    tried = [row["layers"] for row in report["tried"]]
    for name in ("int8", "int4", "unstructured 0.5", "unstructured 0.8", "block 0.5", "int8 block 0.8"):
        assert any(set(row) == {name} for row in tried), (name, tried)
    assert not any(row["failure"] for row in report["tried"])
    assert report["bytes"]["compressed"] < report["bytes"]["float"] / 4


@pytest.mark.parametrize(("budget", "admitted"), [({}, True), ({"objective": "size"}, False), ({"objective": "size", "max_latency": 1.0}, True), ({"precision": "int8"}, False), ({"precision": "int4"}, True)])  # fmt: skip
def test_weights_of_four_bits_meet_activations_of_eight_where_time_counts(budget: Any, admitted: bool) -> None:
    methods = methods_of(Budget(max_drop=0.1, **budget))
    assert ("int4 x int8" in methods) == admitted
    if admitted:
        method = methods["int4 x int8"]
        assert method.behind == "int4" and method.quantize.activations == "int8" and method.quantize.bits == 4  # type: ignore[union-attr]


def test_a_budget_that_cannot_be_met_names_the_nearest(net: nn.Module, data: Any) -> None:
    with pytest.raises(
        maas_rt.Error, match=r"no model keeps the budget of .* 1,000 bytes: of \d+ that were tried the nearest"
    ):
        found(net, data, {"max_drop": 0.9, "max_size": 1000, "objective": "size"})


def test_roles_of_data_that_overlap_are_told(net: nn.Module, data: Any) -> None:
    same = fidelity(net, data["x"])
    notes = found(net, data, {"max_drop": 0.9, "objective": "size"}, evaluate=same, judge=same).report["notes"]
    assert any("32 of the inputs that evaluate runs are calibration inputs" in note for note in notes)
    assert any("32 of the inputs that judge runs" in note for note in notes)


def test_a_generator_is_read_once(net: nn.Module, data: Any) -> None:
    def generate() -> Iterator[dict[str, np.ndarray]]:
        for row in data["x"]:
            yield {"x": row[None]}

    artifact = found(net, generate(), {"max_drop": 0.9, "objective": "size"})
    assert artifact.manifest["recipe"]["quantize"]["calibration_inputs"] == 32


def exits(run: Any) -> float:
    sys.exit(3)


def raises(run: Any) -> float:
    raise ValueError("no labels")


def overwrites(run: Any) -> float:
    out = run({"x": np.zeros((1, 16), np.float32)})
    for array in out.values():
        array[...] = np.nan  # its own: the next run gives others
    return 1.0


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        (raises, r"evaluate failed on the float model \(ValueError: no labels\)"),
        (exits, r"evaluate failed on the float model \(SystemExit: 3\)"),
        (lambda run: float("nan"), "evaluate gave nan"),
        (lambda run: None, "evaluate gave a NoneType"),
        (lambda run: [1.0, 2.0], "evaluate gave a list"),
        (lambda run: np.ones(2), "evaluate gave 2 numbers"),
        (iter(range(10)).__next__, "evaluate failed on the float model"),
        (7, "evaluate is a int, expected a function"),
    ],
)
def test_what_scores_wrongly_is_told(net: nn.Module, data: Any, evaluate: Any, says: str) -> None:
    with pytest.raises(maas_rt.Error, match=says):
        found(net, data, {"max_drop": 0.9}, evaluate=evaluate)


def test_a_score_that_is_noisier_than_the_budget_is_refused(net: nn.Module, data: Any) -> None:
    numbers = np.random.default_rng(0)
    with pytest.raises(maas_rt.Error, match="differ by .*, which is more than the drop of 0.01"):
        found(net, data, {"max_drop": 0.01}, evaluate=lambda run: float(numbers.uniform(0, 1)))


def test_outputs_that_evaluate_overwrites_are_its_own(net: nn.Module, data: Any) -> None:
    artifact = found(net, data, {"max_drop": 0.5, "objective": "size"}, evaluate=overwrites)
    assert set(artifact.report["methods"]) <= {"int8", "float16"} and sum(artifact.report["methods"].values()) == LAYERS


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_drop": -0.1}, "max_drop is -0.1, expected a number from 0 on"),
        ({"max_drop": float("nan")}, "max_drop is nan"),
        ({"max_latency": 0}, "max_latency is 0, expected a number above 0"),
        ({"seconds": -1}, "seconds is -1"),
        ({"objective": "speed"}, "objective is 'speed', expected one of latency, size, cost"),
        ({"precision": "int2"}, "precision is 'int2'"),
        ({"sparsity": "some"}, "sparsity is 'some'"),
        ({"max_droop": 1}, "the budget has no max_droop, expected of max_drop"),
    ],
)
def test_budgets_that_say_nothing_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(maas_rt.Error, match=says):
        Budget.of(fields)


def test_a_relative_drop_is_a_share_of_the_score() -> None:
    assert Budget(max_drop=0.1, relative=True).least_score(50) == pytest.approx(45)
    assert Budget(max_drop=0.1, relative=True).least_score(-50) == pytest.approx(-55)
    assert Budget(max_drop=0.1).least_score(50) == pytest.approx(49.9)


def test_the_assignment_is_the_cheapest_of_all() -> None:
    """Against every assignment of a small case."""
    numbers, names = np.random.default_rng(0), ["float", "int8", "int4"]
    layers = [f"l{i}" for i in range(6)]

    def table() -> dict[str, dict[str, float]]:
        return {layer: dict(zip(names, numbers.uniform(0.1, 1, 3))) for layer in layers}

    costs, errors, sizes = table(), table(), table()
    every = [dict(zip(layers, choice)) for choice in np.array(np.meshgrid(*[names] * 6)).reshape(6, -1).T]

    def total(of: Any, choice: dict[str, str]) -> float:
        return float(sum(of[layer][name] for layer, name in choice.items()))

    for bound, room in ((3.0, None), (3.0, 3.5), (4.0, 3.0)):
        kept = [c for c in every if total(errors, c) <= bound and (room is None or total(sizes, c) <= room)]
        got = assign(layers, costs, errors, bound, sizes, room)
        assert got is not None and got in kept
        assert total(costs, got) == pytest.approx(min(total(costs, c) for c in kept))
    assert assign(layers, costs, errors, 0.1, sizes) is None
    assert assign([], {}, {}, 1.0, {}) == {}


def test_errors_of_groups_are_taken_apart_where_they_matter() -> None:
    own = {f"l{i}": 0.001 for i in range(32)} | {"l5": 1.0, "l20": 0.5}
    asked: list[int] = []

    def error_of(assignment: dict[str, str]) -> float:
        asked.append(len(assignment))
        return sum(own[layer] for layer in assignment)

    got = layer_errors(list(own), "int8", sum(own.values()), error_of)
    assert got["l5"] == pytest.approx(1.0) and got["l20"] == pytest.approx(0.5)
    assert all(got[layer] <= 0.05 for layer in own if layer not in ("l5", "l20"))
    assert len(asked) < 20  # of 32


def test_a_layer_whose_step_has_another_name_is_not_free() -> None:
    base = Trial({}, score=1.0, latency=8e-3, layer_times={"a": 4e-3, "b": 2e-3})
    trial = Trial({"a": "int8", "b": "int8"}, score=1.0, latency=2e-3, layer_times={"b": 3e-4})
    assert layer_seconds("b", trial, base) == 3e-4 and layer_seconds("a", trial, base) == pytest.approx(1e-3)
    assert layer_seconds("c", trial, base) == 0


def test_a_journal_goes_on_behind_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "search"
    journal = Journal(path, "a")
    journal["one"] = {"score": 1}
    journal["two"] = {"score": 2}
    path.write_bytes(path.read_bytes()[:-5])
    again = Journal(path, "a")
    assert "one" in again and "two" not in again
    again["two"] = 3
    assert Journal(path, "a")["two"] == 3
    with pytest.raises(maas_rt.Error, match="what another search measured"):
        Journal(path, "b")
    path.write_text("not a journal\n")
    with pytest.raises(maas_rt.Error, match="is not what a search wrote"):
        Journal(path, "a")


SEARCH = """
import sys, os, signal
import numpy as np, torch
from tests.compiler.test_search import Net, fidelity, found
net = Net().eval()
data = {"x": np.random.default_rng(0).standard_normal((32, 16), np.float32)}
def told(what, fraction):
    print(what, flush=True)
artifact = found(net, data, {"max_drop": 0.9, "objective": "size"}, journal=sys.argv[1], progress=told)
print("tried", len(artifact.report["tried"]))
"""


def test_a_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    command = [sys.executable, "-c", SEARCH, str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("all layers"):  # what was before it is in the journal
                os.kill(first.pid, signal.SIGKILL)
                break
    kept = journal.read_text().splitlines()
    assert len(kept) == 2  # the search's own line, and the float model
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tried" in again.stdout and "the float model" in again.stdout
    assert not journal.exists()


class Redundant(nn.Module):
    """Half of the hidden neurons are hardly read: they can go, and little is lost."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(16, 128), nn.Linear(128, 128), nn.Linear(128, 8)
        with torch.no_grad():
            for layer in (self.second, self.third):
                layer.weight[:, 64:] *= 1e-3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        return torch.as_tensor(self.third(hidden))


def test_channels_go_where_the_budget_admits_it() -> None:
    net = Redundant().eval()
    many = {"x": np.random.default_rng(2).standard_normal((512, 16), np.float32)}
    artifact = found(net, many, {"max_drop": 0.02, "precision": "float", "sparsity": "structured", "objective": "size"})
    assert artifact.report["methods"] == {"structured 0.5": 3}
    assert {"structured 0.25"} in tried_of(artifact) and {"structured 0.5"} in tried_of(artifact)
    assert artifact.report["bytes"]["ratio"] > 2
    assert [each["outputs"] for each in artifact.manifest["recipe"]["prune"]["layers"]][:2] == [[64, 128], [64, 128]]
    x = many["x"][:1]
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(next(iter(maas_rt.load(artifact).run({"x": x}).values())), want, atol=0.02)


def test_channels_and_bits_go_together() -> None:
    many = {"x": np.random.default_rng(2).standard_normal((512, 16), np.float32)}
    artifact = found(Redundant().eval(), many, {"max_drop": 0.2, "sparsity": "structured", "objective": "size"})
    assert artifact.report["methods"] == {"int8 structured 0.5": 3}
    assert artifact.report["bytes"]["ratio"] > 4


def test_what_asks_for_more_than_what_failed_is_not_tried(net: nn.Module, data: Any) -> None:
    narrow = {"max_drop": 0.01, "precision": "float", "sparsity": "structured", "objective": "size"}
    tried = tried_of(found(net, data, narrow))
    assert {"structured 0.25"} in tried and {"structured 0.5"} not in tried

"""Training in stages: the same result as in one process, whatever the schedule, and what a pipeline does not serve."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.train import Pipeline, finish, prepare_qat, read_log
from maas_rt.compiler.train._balance import balanced_split, cut
from torch import nn

import maas_rt
from maas_rt import compiler
from tests.compiler import _train_ranks as ranks

Found = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    ranks.plain(folder / "begun", steps=13, epochs=None, schedule="constant", parallel="none")
    cases = (
        "stages",
        "stages_gpipe",
        "stages_half",
        "stages_rest",
        "stages_sparse",
        "stages_learned",
        "staged",
        "stages_lost",
    )
    return ranks.by_two_processes(folder, *cases)


@pytest.fixture(scope="module")
def by_three(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return ranks.by_two_processes(tmp_path_factory.mktemp("ranks"), "words", "refused", world=3)


def same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert one["step"] == other["step"]
    assert one["loss"] == pytest.approx(other["loss"], abs=tolerance)
    for name, value in other["validation"].items():
        assert one["validation"][name] == pytest.approx(value, abs=tolerance)
    assert set(one["state"]) == set(other["state"])
    for name, value in one["state"].items():
        np.testing.assert_allclose(value, other["state"][name], atol=tolerance)


@pytest.mark.parametrize("way", ["stages", "stages_gpipe"])
def test_two_stages_train_as_one_process(by_two: Found, way: str) -> None:
    """Accumulation, clipping over both stages, the schedule and the average; the last batch of an epoch, of 11, goes through at once."""
    same(by_two(way), ranks.plain(None))


def test_three_stages_by_keyword_with_a_mask_and_a_shared_weight(by_three: Found) -> None:
    same(by_three("words"), ranks.words())


def test_a_run_goes_on_in_stages_and_out_of_them(by_two: Found) -> None:
    whole = ranks.plain(None, steps=30, epochs=None, schedule="constant")
    same(by_two("stages_rest"), whole)
    half = by_two("stages_half")["folder"]
    same(ranks.plain(half, steps=30, epochs=None, schedule="constant", parallel="none"), whole)
    assert [line["step"] for line in read_log(half / "log.jsonl") if "loss" in line] == list(range(1, 31))


def test_a_stage_has_its_weights_alone_and_behind_the_run_all_of_them(by_two: Found) -> None:
    """With statistics, dropout and bfloat16: validation is what the whole module, evaluated, comes to."""
    found = by_two("staged")
    assert found["own"] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert found["empty"] == ["3.weight", "3.bias", "6.weight", "6.bias", "8.weight", "8.bias"]
    for number in range(2):
        assert json.loads((found["folder"] / f"whole-{number}.json").read_text()) == found["state"]
    lines = [line for line in read_log(found["folder"] / "log.jsonl") if "loss" in line]
    assert all(line["of_stage_0"] == 4 and line["of_stage_1"] == 6 and line["samples_per_second"] > 0 for line in lines)
    assert {"accuracy", "lr"} <= set(lines[0])
    module = ranks.deep()
    module.load_state_dict({name: torch.tensor(value) for name, value in found["state"].items()})
    x, y = ranks.data()
    with torch.no_grad():
        scores = module.eval()(x)
    assert int(module[1].num_batches_tracked) > 0
    assert found["validation"]["loss"] == pytest.approx(ranks.LOSS(scores, y).item(), abs=3e-3)
    assert found["validation"]["accuracy"] == pytest.approx((scores.argmax(1) == y).float().mean().item(), abs=0.02)


def test_a_stage_that_is_lost_is_told(by_two: Found) -> None:
    found = by_two("stages_lost")
    assert found["kind"] == "Error" and "another of the 2 processes was lost behind step 7" in found["error"]


def test_the_checkpoint_of_stages_compiles(by_two: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_two("stages")
    (tmp_path / "built_in_stages.py").write_text("from tests.compiler._train_ranks import net as build\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    x = torch.ones(1, 8)
    artifact = compiler.compile(found["folder"] / "result", (x,), factory="built_in_stages:build")
    module = ranks.net()
    module.load_state_dict({name: torch.tensor(value) for name, value in found["state"].items()})
    np.testing.assert_allclose(maas_rt.load(artifact.to_bytes(), threads=1)(x.numpy()), module(x).detach(), atol=1e-5)


def test_stages_prune_as_one_process(by_two: Found) -> None:
    found = by_two("stages_sparse")
    same(found, ranks.sparse(Path()))
    told = [line["sparsity"] for line in read_log(found["folder"].with_suffix(".jsonl")) if "sparsity" in line]
    zeros = [np.array(found["state"][name]) == 0 for name in ("0.weight", "2.weight")]
    assert told[-1] == pytest.approx(sum(z.sum() for z in zeros) / sum(z.size for z in zeros))


def test_what_was_quantized_pruned_and_distilled_in_stages_compiles_to_the_same(by_two: Found) -> None:
    found, one = by_two("stages_learned"), ranks.learned_in_stages()
    assert found["loss"] == pytest.approx(one["loss"], abs=0.03)  # a weight that rounds the other way is a step
    x = ranks.data()[0]
    model = prepare_qat(ranks.net(), x)
    model.load_state_dict({name: torch.tensor(value) for name, value in found["state"].items()})
    assert (model[0].weight == 0).float().mean() == 0.5
    finish(model)
    want = model(x[:16]).detach().numpy()
    got = maas_rt.load(compiler.compile(model, (x[:16],), verify=False).to_bytes(), threads=1)(x[:16].numpy())
    assert np.abs(got - want).max() <= np.ptp(want) / 255 / 100


REFUSED = {
    "layers": "3 processes are a stage each, but the module has no more layers to divide among them than 0:",
    "name": "split names '9', and the module has no such layer",
    "world": "split makes 4 stages, a process each, and there are 3 processes",
    "first": "stage 1 of 3 has no parameter that is trained",
    "micro": "8 samples go through at a time, which 3 micro_batches do not divide",
    "few": "micro_batches is 2 and there are 3 stages",
    "tied": "stages 1 and 2 both have",
    "frozen": "stage 1 of 3 has no parameter that is trained",
    "twice": "stages 2 and 3 read the same result of stage 1",
    "branches": "torch.export does not trace the module",
    "forward": "forward is given, and a pipeline calls the module's stages itself",
    "hidden": "hidden and attention read layers while the module runs, which a pipeline does not show",
    "weights": "the callback Weighs has weights of its own",
    "unpruned": "no layer is pruned",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_pipeline_does_not_serve_is_told(by_three: Found, case: str) -> None:
    assert REFUSED[case] in by_three("refused").get(case, "it trained")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"schedule": "zb"}, "schedule is 'zb', expected one of 1f1b, gpipe"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        ({"micro_batches": 2.0}, "micro_batches is 2.0"),
        ({"split": "blocks.4"}, "split is 'blocks.4', expected names"),
        ({"split": ("a", "a")}, "expected each name once"),
    ],
)
def test_plans_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        Pipeline(**given)


def test_one_process_needs_no_stages() -> None:
    same(ranks.plain(None, parallel=Pipeline(("2",))), ranks.plain(None))


def test_cuts_leave_the_least_to_the_stage_with_the_most() -> None:
    """Against every way to cut."""
    r = np.random.default_rng(0)
    for _ in range(100):
        work = r.choice([0, 0, 1, 2, 5, 9], r.integers(3, 9)).tolist()
        for stages in range(1, sum(each > 0 for each in work) + 1):
            ways = []
            for inner in itertools.combinations(range(1, len(work)), stages - 1):
                sums = [sum(work[i:j]) for i, j in itertools.pairwise((0, *inner, len(work)))]
                if min(sums) > 0:
                    ways.append(max(sums))
            begins = cut(work, stages)
            sums = [sum(work[i:j]) for i, j in itertools.pairwise((*begins, len(work)))]
            assert len(sums) == stages and min(sums) > 0 and max(sums) == min(ways)


def test_layers_are_weighed_by_operations_and_parameters() -> None:
    x = torch.ones(2, 8)
    wide = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 64), nn.Linear(64, 8), nn.Linear(8, 64), nn.Linear(64, 8))
    assert balanced_split(wide, (x,), {}, 2) == ("3",)
    assert balanced_split(wide, (x,), {}, 3) == ("2", "3")
    # Not inside of an item of a chain; what leads to chains counts, and so do weights that nothing is multiplied with.
    words, (batch, _) = ranks.Words(), ranks.text()[0]
    assert balanced_split(words, (), batch, 3) == ("layers.1", "layers.2")
    assert balanced_split(words, (), batch, 5) == ("layers.0", "layers.1", "layers.2", "head")
    with pytest.raises(
        maas_rt.InvalidArgumentError, match=r"than words, layers.0, layers.1, layers.2, head: start fewer"
    ):
        balanced_split(words, (), batch, 6)

"""Gradual pruning: the schedule of the paper, masks that hold, alike in every process, and zeros in the compiled model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.train import Callback, GradualPruning, Run, TrainOptions, TrainResult, read_log, train
from maas_rt.compiler.train._pruning import least
from torch import nn

import maas_rt
from maas_rt import compiler
from tests.compiler import _train_ranks as ranks


def wide(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def run(pruning: GradualPruning, module: nn.Module | None = None, *others: Callback, **changed: Any) -> TrainResult:
    given = {"epochs": 4, "batch": 16, "lr": 1e-2, "optimizer": "adam", **changed}
    return train(module or wide(), ranks.data(), ranks.LOSS, TrainOptions(**given), callbacks=[pruning, *others])


def zeros(state: Any, name: str) -> float:
    return float((state[name] == 0).float().mean())


def test_the_schedule_is_the_papers(tmp_path: Path) -> None:
    """Zhu and Gupta 2017, equation 1: n prunings, every Δt steps."""
    pruning = GradualPruning(0.8, begin=5, end=35, every=5, initial=0.2, skip=("4",))
    run(pruning, log=tmp_path / "log.jsonl")
    told = {line["step"]: line["sparsity"] for line in read_log(tmp_path / "log.jsonl") if "sparsity" in line}
    for step in range(1, 52):
        at = min(step - (step - 5) % 5, 35)
        share = 0.8 + (0.2 - 0.8) * (1 - (at - 5) / 30) ** 3 if step >= 5 else 0.0
        assert told[step] == pytest.approx(share, abs=0.002), step


def test_what_is_gone_is_the_least_and_stays_gone() -> None:
    seen: list[torch.Tensor] = []

    class Sees(Callback):
        def stepped(self, run: Run) -> None:
            seen.append(run.parameters["2.weight"].detach().clone())

    result = run(
        GradualPruning(0.9, begin=3, end=30, every=3), None, Sees(), ema=0.9, optimizer="sgd", weight_decay=0.1
    )
    gone = torch.zeros_like(seen[0], dtype=torch.bool)
    for each in seen:
        assert not each[gone].any()
        gone |= each == 0
    before, after = seen[1], seen[2]  # around the first pruning, at step 3: nothing goes yet with `initial` 0
    assert (before != 0).all() and (after != 0).all()
    assert zeros(result.state, "2.weight") == pytest.approx(0.9, abs=1e-3)  # of the moving average, too
    assert not result.state["2.weight"][gone].any()


def test_patterns() -> None:
    r = np.random.default_rng(0)
    w = np.abs(r.standard_normal((12, 16))).astype(np.float32)
    found = least(torch.tensor(w), 0.5, (1, 1)).numpy()
    np.testing.assert_array_equal(found, w > np.sort(w, axis=None)[95])
    found = least(torch.tensor(w), 0.75, (4, 4)).numpy()
    score = (w**2).reshape(3, 4, 4, 4).sum((1, 3))
    np.testing.assert_array_equal(found, np.kron(score > np.sort(score, axis=None)[8], np.ones((4, 4), bool)))
    found = least(torch.tensor(w), 0.5, (1, 4), kept=2).numpy()
    rows = w.reshape(12, 4, 4)
    np.testing.assert_array_equal(found.reshape(rows.shape), rows > np.sort(rows)[..., 1:2])
    odd = least(torch.tensor(w[:10, :3]), 0.5, (4, 1)).numpy()  # a last block of two rows
    score = np.stack([(w[i : i + 4, :3][: 10 - i] ** 2).mean(0) for i in (0, 4, 8)])
    kept = np.repeat(score > np.sort(score, axis=None)[3], 4, axis=0)[:10]
    np.testing.assert_array_equal(odd, kept)
    filters = torch.tensor(w[:8]).reshape(8, 4, 2, 2)
    assert least(filters, 0.5, (4, 1)).reshape(2, 4, 16).any(1).sum() == 16


@pytest.mark.parametrize(("pattern", "block"), [("unstructured", (4, 1)), ("block", (4, 1)), ("block", (4, 4)), ("2:4", (4, 1)), ("1:4", (4, 1))])  # fmt: skip
def test_zeros_arrive_in_the_compiled_model(pattern: str, block: tuple[int, int]) -> None:
    share = {"2:4": 0.5, "1:4": 0.75}.get(pattern, 0.75)
    result = run(GradualPruning(share, pattern, block=block, begin=2, end=30, every=4, skip=("4",)))
    w = result.state["2.weight"].numpy()
    assert zeros(result.state, "2.weight") == share
    if pattern == "block":
        blocks = (w != 0).reshape(32 // block[0], block[0], 32 // block[1], block[1])
        assert (blocks.any((1, 3)) == blocks.all((1, 3))).all()
    if ":" in pattern:
        assert ((w.reshape(32, 8, 4) != 0).sum(-1) == int(pattern[0])).all()
    x = ranks.data()[0][:4]
    artifact = compiler.compile(result.module.eval(), (x,))
    np.testing.assert_allclose(maas_rt.load(artifact.to_bytes(), threads=1)(x.numpy()), result.module(x).detach(), atol=1e-5)  # fmt: skip
    source = nn.Sequential(*wide())  # what is gone reads as nothing: another weight there would be seen
    source.load_state_dict(result.state)
    torch.testing.assert_close(source(x), result.module(x))


def test_masks_go_on_with_a_run(tmp_path: Path) -> None:
    class Stops(Callback):
        def stepped(self, run: Run) -> None:
            if run.step == 20:
                raise KeyboardInterrupt

    def pruning() -> GradualPruning:
        return GradualPruning(0.8, begin=2, end=40, every=3)

    whole = run(pruning())
    with pytest.raises(KeyboardInterrupt):
        run(pruning(), None, Stops(), checkpoint=tmp_path, every=7)
    again = run(pruning(), checkpoint=tmp_path, every=7)
    assert all(torch.equal(again.state[name], value) for name, value in whole.state.items())


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    return ranks.by_two_processes(tmp_path_factory.mktemp("ranks"), "sparse", "sparse_fsdp")


@pytest.mark.parametrize("way", ["sparse", "sparse_fsdp"])
def test_two_processes_prune_as_one(by_two: Callable[[str], dict[str, Any]], way: str) -> None:
    two, one = by_two(way), ranks.sparse(Path())
    for name in ("0.weight", "2.weight"):
        a, b = np.array(two["state"][name]), np.array(one["state"][name])
        np.testing.assert_array_equal(a == 0, b == 0)
        assert (a == 0).mean() == pytest.approx(0.75, abs=0.02)
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.999])
def test_ends_of_the_range(share: float) -> None:
    result = run(GradualPruning(share, begin=1, end=10), epochs=1)
    assert zeros(result.state, "2.weight") == pytest.approx(share, abs=1e-3)
    assert all(value.isfinite().all() for value in result.state.values())


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_end_at_the_sparsity_too(steps: int) -> None:
    assert zeros(run(GradualPruning(0.5), epochs=None, steps=steps).state, "2.weight") == 0.5


def test_layers_of_one_run_may_have_different_sparsities() -> None:
    result = run(GradualPruning(0.75, layers=("0",)), None, GradualPruning(0.25, layers=("2",)))
    assert zeros(result.state, "0.weight") == 0.75 and zeros(result.state, "2.weight") == 0.25
    with pytest.raises(maas_rt.InvalidArgumentError, match="two callbacks keep 2.weight under the name 'pruning'"):
        run(GradualPruning(0.75), None, GradualPruning(0.25, layers=("2",)))


def test_what_cannot_be_is_told() -> None:
    for words, arguments in {
        "sparsity is 1, expected": {"sparsity": 1},
        "sparsity is None": {},
        "pattern is '4:2', expected": {"sparsity": 0.5, "pattern": "4:2"},
        "2:4 is one of 0.5": {"sparsity": 0.7, "pattern": "2:4"},
        "initial is 0.9": {"sparsity": 0.5, "initial": 0.9},
        "every is 0": {"sparsity": 0.5, "every": 0},
    }.items():
        with pytest.raises(maas_rt.InvalidArgumentError, match=words):
            GradualPruning(**arguments)
    for words, pruning in {
        "no layer is pruned": GradualPruning(0.5, layers=("conv*",)),
        "begin is 9 and end 3": GradualPruning(0.5, begin=9, end=3),
        "begin is 0 and end 0": GradualPruning(0.5, begin=0, end=0),
        "no multiple of 3": GradualPruning(pattern="1:3"),
    }.items():
        with pytest.raises(maas_rt.InvalidArgumentError, match=words):
            run(pruning)

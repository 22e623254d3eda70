"""Distillation by the papers' formulas, and together with pruning and quantization in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.train import Distillation, TrainOptions, finish, prepare_qat, train
from maas_rt.compiler.train._distillation import soft_loss
from torch import nn

import maas_rt
from maas_rt import compiler
from tests.compiler import _train_ranks as ranks


class Reads(nn.Module):
    """A layer of attention over words."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.up, self.attend = nn.Linear(8, width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x[:, None] * torch.linspace(0.5, 1.5, 4)[:, None])
        return self.out(self.norm(x + self.attend(x, x, x)[0]).mean(1))


def test_the_loss_of_scores_is_hintons() -> None:
    r = np.random.default_rng(0)
    student, teacher = r.standard_normal((2, 7, 5)) * 3

    def softmax(z: Any) -> Any:
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    for t in (1.0, 4.0):
        p, q = softmax(teacher / t), softmax(student / t)
        want = (p * np.log(p / q)).sum(1).mean() * t * t
        assert soft_loss(torch.tensor(student), torch.tensor(teacher), t).item() == pytest.approx(want, rel=1e-5)


def test_everything_is_added_up() -> None:
    """Against the sum written out; widths differ, so that the student's hidden state is projected."""
    teacher, student = Reads(16), Reads(8)
    x, y = ranks.data(6)
    pairs = {"norm": "norm"}, {"attend": "attend"}
    distillation = Distillation(teacher, temperature=2.0, alpha=0.3, hidden=pairs[0], attention=pairs[1], hidden_weight=0.5, attention_weight=2.0)  # fmt: skip
    seen: dict[str, torch.Tensor] = {}
    for name, net in (("s", student), ("t", teacher)):
        net.norm.register_forward_hook(lambda _, i, out, name=name: seen.update({name + "h": out.detach()}))
        net.attend.register_forward_hook(lambda _, i, out, name=name: seen.update({name + "a": out[1].detach()}))
    begun: dict[str, Any] = {}

    class Keeps(Distillation):
        def begin(self, run: Any) -> None:
            distillation.begin(run)
            begun.update(run=run, weight=distillation.parameters()["norm.weight"].detach().clone())

        def parameters(self) -> Any:
            return distillation.parameters()

        def loss(self, *given: Any) -> torch.Tensor:
            begun["total"] = distillation.loss(*given)
            begun["scores"] = given[2].detach()
            return begun["total"]

    result = train(student, (x, y), ranks.LOSS, TrainOptions(steps=1, batch=6, lr=1e-2), callbacks=[Keeps(teacher)])
    order = [int((ranks.data(6)[0] - row).abs().sum(1).argmin()) for row in x]
    assert sorted(order) == list(range(6)) and result.step == 1
    with torch.no_grad():
        projected = seen["sh"] @ begun["weight"].T
    parts = {
        "hidden": ((projected - seen["th"]) ** 2).mean().item(),
        "attention": ((seen["sa"] - seen["ta"]) ** 2).mean().item(),
    }
    told = distillation.told(begun["run"])
    assert told["hidden_loss"] == pytest.approx(parts["hidden"], rel=1e-5)
    assert told["attention_loss"] == pytest.approx(parts["attention"], rel=1e-5)
    want = 0.7 * told["task_loss"] + 0.3 * told["soft_loss"] + 0.5 * parts["hidden"] + 2 * parts["attention"]
    assert begun["total"].item() == pytest.approx(want, rel=1e-5)
    assert not torch.equal(distillation.parameters()["norm.weight"], begun["weight"])  # it is trained along
    assert all(p.grad is None for p in teacher.parameters())


def test_the_attention_of_torchs_own_layers_is_learned() -> None:
    teacher, student = ranks.Encodes(16), ranks.Encodes(8)
    x, y = ranks.data(64)

    def maps(net: ranks.Encodes) -> torch.Tensor:
        words = net.up(x[:, None] * torch.linspace(0.5, 1.5, 4)[:, None])
        return net.layer.self_attn(words, words, words)[1]

    with torch.no_grad():
        before = nn.functional.mse_loss(maps(student), maps(teacher)).item()
    attention = Distillation(
        teacher, attention={"layer.self_attn": "layer.self_attn"}, alpha=0.0, attention_weight=100.0
    )
    train(student, (x, y), ranks.LOSS, TrainOptions(steps=40, batch=64, lr=1e-2), callbacks=[attention])
    with torch.no_grad():
        assert nn.functional.mse_loss(maps(student), maps(teacher)).item() < before / 2


def test_a_student_comes_to_answer_as_its_teacher() -> None:
    x, y = ranks.data(400)
    torch.manual_seed(4)
    teacher = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    train(teacher, (x, y), ranks.LOSS, TrainOptions(epochs=20, batch=32, lr=1e-2))
    noise = torch.randint(0, 3, (400,), generator=torch.Generator().manual_seed(1))  # labels that say nothing
    options = TrainOptions(epochs=20, batch=32, lr=1e-2)
    student = train(ranks.net(), (x, noise), ranks.LOSS, options, callbacks=[Distillation(teacher, alpha=1.0)]).module
    agreement = (student(x).argmax(1) == teacher(x).argmax(1)).float().mean()
    assert agreement > 0.95


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    cases = ("combined", "combined_fsdp", "attends", "attends_fsdp")
    return ranks.by_two_processes(tmp_path_factory.mktemp("ranks"), *cases)


@pytest.mark.parametrize("way", ["combined", "combined_fsdp"])
def test_quantized_pruned_and_distilled_in_two_processes(by_two: Callable[[str], dict[str, Any]], way: str) -> None:
    """As in one, and what it came to compiles to the same numbers."""
    found, one = by_two(way), ranks.combined()
    assert found["loss"] == pytest.approx(one.loss, abs=0.03)  # a weight that rounds the other way is a step
    x = ranks.data()[0]
    model = prepare_qat(ranks.net(), x)
    model.load_state_dict({name: torch.tensor(value) for name, value in found["state"].items()})
    weight = model[0].weight.detach()
    blocks = (weight != 0).reshape(4, 4, 8)
    assert (blocks.any(1) == blocks.all(1)).all() and (weight == 0).float().mean() == 0.5
    finish(model)
    assert (model[0].weight_quantizer(weight) == 0).float().mean() >= 0.5
    artifact = compiler.compile(model, (x[:16],), verify=False)
    want = model(x[:16]).detach().numpy()
    got = maas_rt.load(artifact.to_bytes(), threads=1)(x[:16].numpy())
    assert np.abs(got - want).max() <= np.ptp(want) / 255 / 100


@pytest.mark.parametrize("way", ["attends", "attends_fsdp"])
def test_scores_hidden_states_and_attention_with_masks_and_scales_in_two_processes(by_two: Callable[[str], dict[str, Any]], way: str) -> None:  # fmt: skip
    """torch's own encoder layer, all at once, as in one process and as compiled."""
    found, one = by_two(way), ranks.attends()
    assert found["loss"] == pytest.approx(one.loss, rel=0.02)  # a number that rounds the other way is a step
    x = ranks.data()[0]
    model = prepare_qat(ranks.Encodes(8), x)
    model.load_state_dict({name: torch.tensor(value) for name, value in found["state"].items()})
    for name in ("up", "layer.linear1", "layer.linear2"):
        groups = (model.get_submodule(name).weight.detach() == 0).unflatten(1, (-1, 4))
        assert (groups.sum(-1) >= 2).all(), name
    finish(model)
    want = model(x[:16]).detach().numpy()
    got = maas_rt.load(compiler.compile(model, (x[:16],), verify=False).to_bytes(), threads=1)(x[:16].numpy())
    assert np.abs(got - want).max() <= np.ptp(want) / 255 / 100


def test_what_cannot_be_is_told() -> None:
    def bad(words: str, teacher: nn.Module | None = None, student: nn.Module | None = None, **given: Any) -> None:
        with pytest.raises(maas_rt.InvalidArgumentError, match=words):
            callback = Distillation(teacher or ranks.net(), **given)
            train(student or ranks.net(), ranks.data(), ranks.LOSS, TrainOptions(steps=1), callbacks=[callback])

    bad("temperature is 0", temperature=0)
    bad("alpha 2", alpha=2)
    bad("the student has no layer 9", hidden={"9": "0"})
    bad("the teacher has no layer 9", hidden={"0": "9"})
    bad(r"scores are \[32, 3\] and the teacher's \[32, 4\]", nn.Linear(8, 4))
    bad("to give .result, attention map.", attention={"0": "0"})
    unused = nn.Sequential(*ranks.net())
    unused[0].spare = nn.Linear(8, 16)
    bad("the student does not call 0.spare", student=unused, hidden={"0.spare": "0"})
    bad("the teacher does not call its layer of 0", unused, hidden={"0": "0.spare"})
    bad(r"gives \[32, 16\] and its teacher's layer \[32, 32\]", nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), hidden={"1": "1"})  # fmt: skip

"""The trainer: the same result from one process and from several, and from a run that was cut off and went on."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from maas_rt.compiler.train import Callback, Run, TrainOptions, TrainResult, plot, read_log, train
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import maas_rt
from maas_rt import compiler
from tests.compiler import _train_ranks as ranks


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What each case came to in two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks.plain(folder / "begun", steps=13, epochs=None, schedule="constant", parallel="none")
    cases = ("ddp", "fsdp", "tensor", "few", "half", "rest", "disk", "lost", "freed_late", "alone")
    return ranks.by_two_processes(folder, *cases)


def same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert one["step"] == other["step"]
    assert one["loss"] == pytest.approx(other["loss"], abs=tolerance)
    assert one["validation"]["loss"] == pytest.approx(other["validation"]["loss"], abs=tolerance)
    for name, value in one["state"].items():
        np.testing.assert_allclose(value, other["state"][name], atol=tolerance)


@pytest.mark.parametrize("way", ["ddp", "fsdp", "tensor"])
def test_two_processes_train_as_one(by_two: Callable[[str], dict[str, Any]], way: str) -> None:
    """The same global batches, accumulation, clipping, schedule and average; two processes differ by rounding alone."""
    same(by_two(way), ranks.plain(None))


def test_a_batch_with_fewer_samples_than_processes_counts_once(by_two: Callable[[str], dict[str, Any]]) -> None:
    same(by_two("few"), ranks.plain(None, batch=101))


def test_a_run_goes_on_with_another_number_of_processes(
    by_two: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    half = by_two("half")
    gone_on = ranks.plain(half["folder"], steps=30, epochs=None, schedule="constant", parallel="none")
    whole = ranks.plain(None, steps=30, epochs=None, schedule="constant")
    same(gone_on, whole)
    same(by_two("rest"), whole)  # from one process to two
    steps = [line["step"] for line in read_log(half["folder"] / "log.jsonl") if "loss" in line]
    assert steps == list(range(1, 31))


def test_the_checkpoint_of_sharded_weights_compiles(
    by_two: Callable[[str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_two("fsdp")
    (tmp_path / "built_for_test.py").write_text("from torch import nn\ndef build(): return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))\n")  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    x = torch.ones(1, 8)
    artifact = compiler.compile(found["folder"] / "result", (x,), factory="built_for_test:build")
    module = ranks.net()
    module.load_state_dict({name: torch.tensor(value) for name, value in found["state"].items()})
    got = maas_rt.load(artifact.to_bytes(), threads=1)(x.numpy())
    np.testing.assert_allclose(got, module(x).detach().numpy(), atol=1e-5)


def test_a_full_disk_is_told_by_all_and_the_last_checkpoint_stays(by_two: Callable[[str], dict[str, Any]]) -> None:
    found = by_two("disk")
    assert found["kind"] == "Error" and "step 10 could not be written" in found["error"], found
    assert "last complete one is of step 5" in found["error"] and "File too large" in found["error"]
    assert sorted(each.name for each in found["folder"].iterdir()) == ["latest", "log.jsonl", "step-00000005"]


def test_a_process_that_is_lost_is_told(by_two: Callable[[str], dict[str, Any]]) -> None:
    found = by_two("lost")
    assert found["kind"] == "Error" and "another of the 2 processes was lost behind step 7" in found["error"]
    assert "--max-restarts" in found["error"]


def test_threads_that_still_free_a_tensor_do_not_hold_up_the_end(by_two: Callable[[str], dict[str, Any]]) -> None:
    assert by_two("freed_late")["kind"] == "DistributedDataParallel"


def test_several_processes_without_a_way_to_share_are_refused(by_two: Callable[[str], dict[str, Any]]) -> None:
    assert "choose 'ddp', 'fsdp'" in by_two("alone")["error"]


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from maas_rt.compiler import train as t

folder = Path(sys.argv[1])

class KilledOnce(t.Callback):
    def stepped(self, run):
        if run.step == 9 and os.environ["RANK"] == "1" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 3))
g = torch.Generator().manual_seed(1)
x, y = torch.randn(96, 8, generator=g), torch.randint(0, 3, (96,), generator=g)
options = t.TrainOptions(epochs=3, batch=16, lr=1e-2, schedule="cosine", warmup=2, ema=0.9, checkpoint=folder / "run", every=4, parallel=t.Pipeline() if sys.argv[3] == "stages" else "ddp")
t.train(net, (x, y), nn.functional.cross_entropy, options, callbacks=[KilledOnce()] if sys.argv[2] == "kill" else [])
"""


@pytest.mark.parametrize("parallel", ["ddp", "stages"])
def test_a_killed_worker_goes_on_at_the_same_curve(tmp_path: Path, parallel: str) -> None:
    """Under torchrun --max-restarts; dropout and the order of the data among what goes on, bit for bit."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    curves = []
    for way in ("kill", "quiet"):
        folder = tmp_path / way
        folder.mkdir()
        said = ranks.processes(
            "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--max-restarts", 1, script, folder, way, parallel
        )  # fmt: skip
        assert (folder / "killed").exists() == (way == "kill")
        log = folder / "run" / "log.jsonl"
        assert log.exists() and (folder / "run" / "result").is_dir(), said
        curves.append([(line["step"], line["loss"], line["lr"]) for line in read_log(log) if "loss" in line])
    assert curves[0] == curves[1] and len(curves[0]) == 18


# ---- one process


def run(data: Any = None, callbacks: Any = (), validation: Any = None, module: nn.Module | None = None, loss: Any = ranks.LOSS, **changed: Any) -> TrainResult:  # fmt: skip
    given = {"epochs": 1, "batch": 32, "lr": 1e-2, **changed}
    return train(module or ranks.net(), ranks.data() if data is None else data, loss, TrainOptions(**given), callbacks=callbacks, validation=validation)  # fmt: skip


class Stops(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, run: Run) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_every_optimizer_goes_on_where_it_was(tmp_path: Path, optimizer: str) -> None:
    whole = run(optimizer=optimizer, epochs=2, schedule="linear")
    with pytest.raises(KeyboardInterrupt):
        run(optimizer=optimizer, epochs=2, schedule="linear", checkpoint=tmp_path, every=4, callbacks=[Stops(10)])
    again = run(optimizer=optimizer, epochs=2, schedule="linear", checkpoint=tmp_path, every=4)
    assert again.loss == whole.loss
    assert all(torch.equal(again.state[name], value) for name, value in whole.state.items())


@pytest.mark.parametrize(
    ("schedule", "warmup", "rates"),
    [
        ("constant", 0, [0.1] * 6),
        ("linear", 0, [0.1 * (1 - k / 6) for k in range(6)]),
        ("cosine", 0, [0.05 * (1 + np.cos(np.pi * k / 6)) for k in range(6)]),
        ("constant", 3, [0.1 * (0.01 + 0.99 * k / 3) for k in range(3)] + [0.1] * 3),
        ("cosine", 2, [0.001, 0.0505] + [0.05 * (1 + np.cos(np.pi * k / 4)) for k in range(4)]),
    ],
)
def test_schedules(tmp_path: Path, schedule: str, warmup: int, rates: list[float]) -> None:
    run(schedule=schedule, warmup=warmup, lr=0.1, epochs=None, steps=6, log=tmp_path / "log.jsonl", optimizer="sgd")
    assert [line["lr"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line] == pytest.approx(rates)


def test_an_average_of_the_weights_is_the_result() -> None:
    seen: list[torch.Tensor] = []

    class Sees(Callback):
        def stepped(self, run: Run) -> None:
            seen.append(run.parameters["0.weight"].detach().clone())

    first = ranks.net()[0].weight.detach().clone()
    result = run(ema=0.75, epochs=None, steps=3, callbacks=[Sees()])
    expected = first
    for each in seen:
        expected = 0.75 * expected + 0.25 * each
    torch.testing.assert_close(result.state["0.weight"], expected)
    torch.testing.assert_close(result.module.get_parameter("0.weight").detach(), expected)


def test_the_order_of_a_loader_follows_from_the_seed_and_its_own_sampler() -> None:
    seen: list[list[float]] = []

    class Keeps(Callback):
        def loss(self, run: Run, batch: Any, output: Any, target: Any, loss: torch.Tensor) -> torch.Tensor:
            seen.append(batch[0][:, 0].tolist())
            return loss

    x, y = ranks.data(12)
    shuffled = DataLoader(TensorDataset(x, y), 5, shuffle=True, generator=torch.Generator().manual_seed(9))
    for seed in (1, 1, 2):
        run(shuffled, [Keeps()], seed=seed, epochs=2)
    first, again, other = seen[:6], seen[6:12], seen[12:]
    assert first == again and first != other and first[:3] != first[3:]
    assert sorted(itertools.chain(*first[:3])) == sorted(x[:, 0].tolist())
    seen.clear()
    run(DataLoader(TensorDataset(x, y), 5, drop_last=True), [Keeps()])
    assert seen == [x[:5, 0].tolist(), x[5:10, 0].tolist()]


def test_iterables_train_and_go_on(tmp_path: Path) -> None:
    x, y = ranks.data(40)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]

    class Streams(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(x, y))

    whole = run(batches, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        run(batches, epochs=2, checkpoint=tmp_path, every=3, callbacks=[Stops(4)])
    assert run(batches, epochs=2, checkpoint=tmp_path, every=3).loss == whole.loss
    assert run(Streams(), batch=8, epochs=2).loss == whole.loss


def test_bfloat16_keeps_weights_in_float32() -> None:
    result = run(bf16=True, epochs=3)
    assert {value.dtype for value in result.state.values()} == {torch.float32}
    plain = run(epochs=3)
    assert result.loss != plain.loss and result.loss == pytest.approx(plain.loss, rel=0.05)


def test_log_and_picture(tmp_path: Path) -> None:
    result = run(validation=ranks.data(), epochs=3, log=tmp_path / "a" / "log.jsonl")
    lines = read_log(tmp_path / "a" / "log.jsonl")
    assert lines[0]["event"] == "start" and lines[0]["lr"] == 0.01 and result.log == tmp_path / "a" / "log.jsonl"
    steps = [line for line in lines if "loss" in line]
    assert all({"step", "epoch", "loss", "accuracy", "lr", "samples_per_second"} <= set(line) for line in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    told = [line for line in lines if line.get("event") == "validation"]
    with torch.no_grad():
        right = (result.module(ranks.data()[0]).argmax(1) == ranks.data()[1]).float().mean().item()
    assert len(told) == 3 and told[-1]["validation_accuracy"] == pytest.approx(right)
    assert result.validation["accuracy"] == pytest.approx(right)
    words = "".join(ElementTree.parse(tmp_path / "a" / "log.svg").getroot().itertext())
    assert all(word in words for word in ("loss", "accuracy", "validation loss", "lr", "samples per second"))
    (tmp_path / "cut.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    plot(tmp_path / "cut.jsonl", tmp_path / "cut.svg")
    assert read_log(tmp_path / "cut.jsonl") == [{"step": 1, "loss": 2.0}]


def test_a_log_whose_disk_is_full_is_told() -> None:
    with pytest.raises(
        maas_rt.Error, match="the log /dev/full cannot be written .No space left on device.: free space"
    ):
        run(log="/dev/full")


def test_a_log_is_kept_if_the_disk_is_full_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(checkpoint=tmp_path, epochs=None, steps=5)
    before = (tmp_path / "log.jsonl").read_bytes()

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(maas_rt.Error, match="No space left"):
            run(checkpoint=tmp_path, epochs=None, steps=7)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    run(checkpoint=tmp_path, epochs=None, steps=7)
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 8))
    assert [line["step"] for line in lines if line.get("event") == "start"] == [0, 5]


def test_checkpoints_are_complete_or_not_there(tmp_path: Path) -> None:
    run(checkpoint=tmp_path, every=1, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "log.jsonl", "log.svg", "result", "step-00000006", "step-00000007"]  # fmt: skip
    half = tmp_path / ".step-00000009"
    half.mkdir()
    (half / "junk").write_text("x")
    assert run(checkpoint=tmp_path, every=1).step == 7  # it was complete: nothing is trained
    assert not half.exists()


class Counts(Callback):
    name = "counts"

    def state(self) -> dict[str, torch.Tensor]:
        return {"steps": torch.zeros(1)}


def nan(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ranks.LOSS(output, target) / 0 * 0


def test_a_loss_that_is_no_number_ends_the_run_before_it_touches_the_weights() -> None:
    module = ranks.net()
    with pytest.raises(maas_rt.Error, match=r"the loss is nan in step 1 \(batch 1 of epoch 1\).* lower lr"):
        run(module=module, loss=nan)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), ranks.net().parameters()))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": (torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64))}, "the data is empty"),
        ({"data": []}, "the data is empty"),
        ({"data": [], "epochs": None, "steps": 3}, "the data is empty"),
        ({"data": iter([])}, "can begin anew"),
        ({"data": 3}, "expected a DataLoader"),
        ({"data": [torch.zeros(4, 8)]}, "expected .inputs..., target."),
        ({"data": [(torch.zeros(4, 8), torch.zeros(3))]}, "the same number in all"),
        ({"loss": lambda output, target: output}, r"shape \[32, 3\], expected a scalar"),
        ({"loss": lambda output, target: 1.0}, "returned float, expected a scalar"),
        ({"validation": []}, "the validation data is empty"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected one of sgd"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"parallel": "zero"}, "parallel is 'zero'"),
        ({"lr": -1}, "lr is -1, expected a number of at least 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch": 0}, "batch is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"clip": 0}, "clip is 0"),
        ({"epochs": 1, "steps": 1}, "either epochs or steps"),
        ({"epochs": None}, "either epochs or steps"),
        ({"every": 3}, "no checkpoint"),
        ({"warmup": 1.5}, "warmup is 1.5, expected a whole number"),
        ({"betas": (0.9, 1.0)}, "betas is .0.9, 1.0."),
        ({"loss": None}, "the loss is a NoneType, expected a function"),
        ({"callbacks": [print]}, "a callback is a builtin_function_or_method, expected a Callback"),
        ({"callbacks": [Counts(), Counts()]}, "two callbacks keep steps under the name 'counts'"),
        ({"data": (torch.zeros(4, 8), torch.zeros(3))}, "tensors with 4, 3 samples"),
        ({"data": (np.zeros((4, 8)), np.zeros(4))}, "numpy arrays, expected tensors"),
        ({"version": 2}, "version is 2"),
        ({"module": nn.ReLU()}, "no parameter that is trained"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_sentence(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        run(**changed)


def test_options_are_of_their_kind() -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="the options are a dict, expected a TrainOptions"):
        train(ranks.net(), ranks.data(), ranks.LOSS, {"steps": 1})  # type: ignore[arg-type]


def test_a_run_that_goes_on_is_held_to_its_model_and_its_options(tmp_path: Path) -> None:
    run(checkpoint=tmp_path)
    with pytest.raises(maas_rt.CheckpointError, match="checkpoint of another model .* another shape of 0.weight"):
        run(checkpoint=tmp_path, module=nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)))
    with pytest.raises(maas_rt.CheckpointError, match="another model .* it has no 3.weight"):
        run(checkpoint=tmp_path, module=nn.Sequential(*ranks.net(), nn.Linear(3, 3)))
    with pytest.raises(maas_rt.CheckpointError, match="another model .* it has no"):
        run(checkpoint=tmp_path, module=nn.Linear(8, 3))
    with pytest.raises(maas_rt.InvalidArgumentError, match=r"lr is 0.5, but the run in .* has 0.01"):
        run(checkpoint=tmp_path, lr=0.5)
    run(checkpoint=tmp_path / "b", schedule="cosine")
    with pytest.raises(maas_rt.InvalidArgumentError, match=r"epochs is 2, but the run in .* has 1"):
        run(checkpoint=tmp_path / "b", schedule="cosine", epochs=2)
    assert run(checkpoint=tmp_path, epochs=2).step == 14
    with pytest.raises(maas_rt.InvalidArgumentError, match="checkpoint of step 14 and resume is False"):
        run(checkpoint=tmp_path, resume=False)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    run(checkpoint=tmp_path)
    metadata = tmp_path / "step-00000007" / ".metadata"
    metadata.write_bytes(b"cos\nsystem\n(S'touch hostile'\ntR.")
    with pytest.raises(maas_rt.CheckpointError, match="cannot be read"):
        run(checkpoint=tmp_path)
    assert not Path("hostile").exists()

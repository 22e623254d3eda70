"""compile() from end to end: results, determinism, targets, what is refused, and that no failure leaves a file behind."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile

import maas_rt
from maas_rt import CompileError, InvalidArgumentError, UnsupportedOperatorError, _container, compiler


class Mixed(torch.nn.Module):
    """Kernels (convolution, gemm) and generated code (the chain in the middle) in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = torch.sigmoid(y) * 2 - torch.cos(y)
        return self.head(y.mean((2, 3)))


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


X = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(1))
DYNAMIC = {"x": {0: (1, 8)}}


@pytest.fixture(scope="module")
def artifact() -> Any:
    return compile(mixed(), (X,), dynamic=DYNAMIC, target="native,x86-64-v2", name="mixed")


def test_results_and_manifest(artifact: Any) -> None:
    program = maas_rt.load(artifact.to_bytes())
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 12, 10)
        np.testing.assert_allclose(program(x.numpy()), mixed()(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    manifest = artifact.manifest
    assert manifest["name"] == "mixed"
    assert manifest["verified"]["status"] == "passed"
    assert manifest["verified"]["max_relative_error"] < 1e-4
    assert manifest["verified"]["reference"] == "torch"
    assert "x86-64-v2" in manifest["targets"]
    assert manifest["inputs"][0]["name"] == "x"
    assert manifest["inputs"][0]["shape"][1:] == [3, 12, 10]
    (symbol,) = manifest["symbols"].values()
    assert (symbol["min"], symbol["max"]) == (1, 8)
    assert manifest["recipe"] is None
    manifest["name"] = "changed"
    assert artifact.manifest["name"] == "mixed"


def test_sections(artifact: Any) -> None:
    kinds = _container.SectionKind
    container = _container.read(artifact.to_bytes())
    targets = [each.target for each in container.sections if each.kind == kinds.CODE]
    assert targets == artifact.manifest["targets"]
    weights = container.find(kinds.WEIGHTS)
    assert weights is not None
    assert weights.offset % 4096 == 0


def test_a_tiny_model_is_a_small_file() -> None:
    """What any file has: table, manifest, plan, code of a function of its own, and the gap before the weights."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.Softplus())
    artifact = compiler.compile(net, {"input": torch.zeros(1, 8)}, target="x86-64-v3", verify=False)
    assert artifact.code
    assert len(artifact.to_bytes()) <= 12_000


def test_an_artifact_is_sent_as_bytes(artifact: Any) -> None:
    assert copy.deepcopy(artifact).to_bytes() == artifact.to_bytes()
    with pytest.raises(InvalidArgumentError, match=r"to_bytes\(\)"):
        pickle.dumps(artifact)


def test_load_accepts_an_artifact_and_a_path(artifact: Any, tmp_path: Path) -> None:
    artifact.save(tmp_path / "m.mrt")
    assert (tmp_path / "m.mrt").read_bytes() == artifact.to_bytes()
    assert os.listdir(tmp_path) == ["m.mrt"]
    want = mixed()(X).detach().numpy()
    for source in (artifact, tmp_path / "m.mrt"):
        np.testing.assert_allclose(maas_rt.load(source)(X.numpy()), want, rtol=1e-4, atol=1e-5)


TWICE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.compiler.test_compile import DYNAMIC, X, mixed
from maas_rt import compiler
from maas_rt.compiler import compile
artifact = compile(mixed(), (X,), dynamic=DYNAMIC, target="native,x86-64-v2", name="mixed")
print(hashlib.sha256(artifact.to_bytes()).hexdigest())
"""


def test_another_process_writes_the_same_bytes(artifact: Any) -> None:
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", TWICE, str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == hashlib.sha256(artifact.to_bytes()).hexdigest()


def test_v2_runs_with_portable_kernels(tmp_path: Path) -> None:
    artifact = compile(mixed(), (X,), target="x86-64-v2", verify=False)
    assert artifact.manifest["targets"] == ["x86-64-v2"]
    assert artifact.manifest["verified"] == {"status": "skipped"}
    artifact.save(tmp_path / "m.mrt")
    np.save(tmp_path / "x.npy", X.numpy())
    script = """
        import sys, numpy as np, maas_rt
        np.save(sys.argv[1] + "/y.npy", maas_rt.load(sys.argv[1] + "/m.mrt")(np.load(sys.argv[1] + "/x.npy")))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MAAS_RT_ISA": "scalar"},
    )
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), mixed()(X).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_one_tensor_alone_is_the_one_input(shape: tuple[int, ...]) -> None:
    artifact = compile(torch.nn.Linear(3, 2), torch.ones(shape))
    assert artifact.manifest["verified"]["status"] == "passed"
    (result,) = maas_rt.load(artifact).run({"input": np.ones(shape, np.float32)}).values()
    assert result.shape == (*shape[:-1], 2)


def test_examples_that_are_not_the_models_are_refused() -> None:
    """Passed over, they would leave a user to think that the model was verified on them."""
    exported = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(4, 3),))
    for examples, part in (
        ({"y": X}, "are y; the model's are input"),
        ((X, X), "are 2 arrays; the model's are input"),
        ({}, "are none; the model's are input"),
    ):
        with pytest.raises(InvalidArgumentError, match=part):
            compile(exported, examples)
    with pytest.raises(CompileError, match="refuses the given inputs"):
        compile(exported, {"input": np.ones((4, 5), np.float32)})


def test_progress_is_told_in_order() -> None:
    told: list[tuple[str, float]] = []
    compile(
        torch.nn.Linear(3, 4), (torch.randn(2, 3),), progress=lambda stage, fraction: told.append((stage, fraction))
    )
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert told[-1] == ("done", 1.0)
    assert {"import", "lower", "build code", "verify"} <= {stage for stage, _ in told}


def test_checks_between_stages_accept_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAAS_RT_CHECK", "1")
    compile(mixed(), (X,), verify=False)


# ---- what is refused ---------------------------------------------------------------------------------------------------


def test_a_recipe_is_refused_in_one_sentence() -> None:
    with pytest.raises(CompileError, match="expected a maas_rt.compiler.Recipe") as caught:
        compile(mixed(), (X,), recipe={"quantize": 8})
    assert "\n" not in str(caught.value)


def test_an_unknown_target_is_refused_before_any_work() -> None:
    with pytest.raises(InvalidArgumentError, match="pdp11"):
        compile(object(), target="pdp11")


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="dict"):
        compile({"not": "a model"})


def test_unsupported_operators_are_all_listed() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.linalg.svd(x).U, torch.linalg.eigvals(x), torch.linalg.eigvals(x + 1)

    with pytest.raises(UnsupportedOperatorError) as caught:
        compile(Odd(), (torch.randn(3, 3),))
    names = " ".join(each.name for each in caught.value.operators)
    assert "svd" in names
    assert "eig" in names


# ---- nothing is left behind ---------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_file(artifact: Any, tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes a write fail in its middle, as a full disk does."""
    path = tmp_path / "m.mrt"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        with pytest.raises(maas_rt.Error, match="m.mrt"):
            artifact.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_saving_over_a_file_that_cannot_be_replaced_keeps_it(artifact: Any, tmp_path: Path) -> None:
    (tmp_path / "m.mrt").mkdir()
    with pytest.raises(maas_rt.Error, match="directory"):
        artifact.save(tmp_path / "m.mrt")
    assert os.listdir(tmp_path) == ["m.mrt"]


INTERRUPTED = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.compiler.test_compile import X, mixed
from maas_rt import compiler
from maas_rt.compiler import compile
def progress(stage, fraction):
    print(stage, flush=True)
compile(mixed(), (X,), progress=progress).save("m.mrt")
"""


def test_an_interrupt_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),  # a job in the background inherits that it is ignored
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "build code":
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert not [name for name in os.listdir(tmp_path) if "mrt" in name or name.startswith("maas-rt")]

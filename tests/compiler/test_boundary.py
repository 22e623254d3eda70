"""Whatever goes wrong inside leaves the compiler as an error of maas_rt that names the stage; and deep graphs have room."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import _pipeline, compile
from maas_rt.compiler._boundary import boundary
from maas_rt.compiler._deep import deep, heed
from maas_rt.compiler.importers.onnx import _registry
from maas_rt.compiler.verify._against import verify_file
from onnx import TensorProto, helper
from torch import nn

import maas_rt


def relu() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="first")], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def broken(*_: Any, **__: Any) -> Any:
    raise IndexError("list index out of range\nand more")


@pytest.mark.parametrize("stage", ["_lower", "_collect", "_schedule", "_compile", "_plan", "_manifest", "_verify"])
def test_a_failure_in_any_stage_is_ours(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pipeline, stage, broken)
    with pytest.raises(maas_rt.CompileError, match="IndexError: list index out of range.*please report it") as caught:
        compile(relu())
    assert isinstance(caught.value.__cause__, IndexError) and "\n" not in str(caught.value)
    assert "stage '" in str(caught.value)


def test_a_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pipeline, "lowering_passes", lambda *_: [("match norms", broken)])
    with pytest.raises(maas_rt.CompileError, match="stage 'lower: match norms' failed"):
        compile(relu())


def test_the_operator_that_an_importer_fails_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _registry.Converter("Relu", "", (), broken)
    monkeypatch.setattr(_registry, "find", lambda *_: found)
    with pytest.raises(maas_rt.CompileError, match=r"stage 'import' at node 'first' \(Relu\) failed \(IndexError"):
        compile(relu())
    monkeypatch.undo()
    monkeypatch.setattr("maas_rt.compiler.importers.torch._graph.bind_arguments", broken)
    with pytest.raises(
        maas_rt.UnsupportedOperatorError, match=r"aten.relu.default \[IndexError.*please report"
    ) as caught:
        compile(nn.ReLU(), (torch.ones(2),))
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    "given", [{"target": 3}, {"dynamic": object()}, {"input_shapes": 7}, {"input_shapes": {"x": 4}}]
)
def test_senseless_arguments(given: dict[str, Any]) -> None:
    with pytest.raises(maas_rt.Error):
        compile(relu(), **given)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), maas_rt.CompileError, "memory does not suffice"),
        (OSError(28, "No space left on device", "code.o"), maas_rt.CompileError, "code.o: No space left on device$"),
        (ModuleNotFoundError("no", name="onnxruntime"), maas_rt.Error, "pip install"),
        (RuntimeError(""), maas_rt.CompileError, "RuntimeError: RuntimeError"),
        (maas_rt.FormatError("ours"), maas_rt.FormatError, "^ours$"),
    ],
)
def test_what_becomes_of_an_exception(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words), boundary("build"):
        raise error


def test_an_interrupt_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_pipeline, "_lower", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile(relu())


def test_what_progress_raises_is_the_callers() -> None:
    def progress(stage: str, _: float) -> None:
        if stage == "build code":
            raise LookupError(stage)

    with pytest.raises(LookupError, match="build code"):
        compile(relu(), progress=progress)


def test_a_factory_that_fails(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_factory.py").write_text("def build():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    torch.save({}, "w.pt")
    with pytest.raises(maas_rt.CompileError, match="failing_factory:build: .* ZeroDivisionError") as caught:
        compile("w.pt", factory="failing_factory:build")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_verification_of_a_file_has_the_boundary_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compile(relu(), verify=False).save(tmp_path / "m.mrt")
    monkeypatch.setattr("maas_rt.compiler.verify._against.differences", broken)
    with pytest.raises(maas_rt.CompileError, match="stage 'verify' failed"):
        verify_file(tmp_path / "m.mrt", relu())


# ---- depth


def test_deep_calls() -> None:
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    limit = sys.getrecursionlimit()
    assert deep(lambda: down(20_000)) == 20_000
    assert deep(lambda: deep(lambda: threading.current_thread().name)) == "maas_rt compile"
    assert sys.getrecursionlimit() == limit
    with pytest.raises(ZeroDivisionError):
        deep(lambda: 1 // 0)


@pytest.mark.parametrize("asks", [True, False])
def test_an_interrupt_waits_until_the_work_asks_or_is_done(asks: bool) -> None:
    steps: list[str] = []
    sent = threading.Event()

    def work() -> None:
        while asks or not sent.is_set():
            if asks:
                heed()
            steps.append("begin")  # as of a callback of TVM's: nothing may be raised before its end
            for _ in range(1000):
                len(steps)
            steps.append("end")
        steps.extend(["begin", "end"])

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        sent.set()

    timer = threading.Timer(0.1, interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            deep(work)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(steps) > 2
    assert steps == ["begin", "end"] * (len(steps) // 2)
    assert deep(lambda: 3) == 3  # and it is over


def test_a_sum_of_very_many_tensors() -> None:
    class Many(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(x.repeat(300, 1, 1).unbind(0))  # type: ignore[return-value]

    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    model = maas_rt.load(compile(Many(), {"x": x}).to_bytes())
    np.testing.assert_array_equal(model(x.numpy()), x.numpy() * 300)

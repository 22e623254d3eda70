"""Verification: what counts as agreement, what is refused, and that the first operator at fault is named."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import _configs, compile
from maas_rt.compiler._configs import VerifyOptions
from maas_rt.compiler.importers import SymbolSpec, import_model
from maas_rt.compiler.verify import Report, compare, sample_inputs
from maas_rt.compiler.verify._against import verify_file
from maas_rt.compiler.verify._deadline import OverdueError, within
from maas_rt.compiler.verify._inputs import bindings
from maas_rt.compiler.verify._run import compare_run, movements
from onnx import helper

import maas_rt.capi
from maas_rt import CompileError, InvalidArgumentError, VerificationError
from maas_rt._cli import main

OPTIONS = VerifyOptions()


def _error(got: Any, wanted: Any) -> float:
    difference = compare("y", np.asarray(got), np.asarray(wanted), OPTIONS)
    return float("inf") if difference.detail else difference.error


def test_errors_are_relative_to_the_scale() -> None:
    wanted = np.array([0.0, 100.0], "float32")
    assert _error(wanted + np.float32(0.001), wanted) == pytest.approx(1e-5, rel=0.1)
    assert _error(wanted, wanted) == 0
    assert _error(np.array([1e-3], "float32"), np.zeros(1, "float32")) == pytest.approx(1e-3)


def test_nan_and_infinity_must_stand_in_the_same_places() -> None:
    nan, inf = np.nan, np.inf
    assert _error(np.float32([nan, 1]), np.float32([nan, 1])) == 0
    assert _error(np.float32([1, nan]), np.float32([nan, 1])) == inf
    assert _error(np.float32([1, 1]), np.float32([nan, 1])) == inf
    assert _error(np.float32([inf, 1]), np.float32([inf, 1])) == 0
    assert _error(np.float32([-inf, 1]), np.float32([inf, 1])) == inf
    assert _error(np.float32([3e38, 1]), np.float32([inf, 1])) == inf


def test_integers_bools_shapes_and_types_must_be_equal() -> None:
    assert _error(np.int64([1, 2]), np.int64([1, 2])) == 0
    assert _error(np.int64([1, 2]), np.int64([1, 3])) == float("inf")
    assert _error(np.array([True]), np.array([False])) == float("inf")
    assert _error(np.zeros((2, 1), "float32"), np.zeros((1, 2), "float32")) == float("inf")
    assert _error(np.zeros(2, "float64"), np.zeros(2, "float32")) == float("inf")


def test_tolerances_by_element_type() -> None:
    assert OPTIONS.tolerance("float32") == 1e-4
    assert (
        OPTIONS.tolerance("float64")
        < OPTIONS.tolerance("float32")
        < OPTIONS.tolerance("float16")
        < OPTIONS.tolerance("bfloat16")
    )
    assert OPTIONS.tolerance("int64") == OPTIONS.tolerance("bool") == 0


def test_symbols_are_tried_at_their_smallest_and_at_sizes_that_differ() -> None:
    small, medium = bindings({"a": SymbolSpec(1, 64), "b": SymbolSpec(0, None), "c": SymbolSpec(32, 512, 32)})
    assert small == {"a": 1, "b": 1, "c": 32}
    assert medium["a"] != medium["b"]
    assert medium["c"] % 32 == 0
    assert medium["c"] > 32
    assert SymbolSpec(1, 50, 8).nearest(100) == 48


def test_integer_inputs_stay_inside_what_their_consumers_accept() -> None:
    module = torch.nn.Embedding(5, 3)
    model = import_model(module, (torch.zeros(4, dtype=torch.int64),), dynamic={"input": {0: (1, 9)}})
    drawn = np.concatenate([each["input"] for each in sample_inputs(model, OPTIONS, None)])
    assert drawn.min() >= 0
    assert drawn.max() < 5
    assert len(set(drawn.tolist())) > 1


class Chain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.exp(x)
        y = torch.sin(y)
        y = torch.sqrt(y * y + 1)
        return torch.cos(y)


def test_a_wrong_result_is_refused_and_the_operator_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A schedule pass that turns every sine into a cosine: the first difference is at the sine, not where the output is."""
    from maas_rt.compiler.codegen import _body
    from tvm import tirx

    original = _body.BodyBuilder._call

    def wrong(self: Any, node: Any, env: Any) -> Any:
        if node.op.name == "tirx.sin":
            return original(self, tirx.cos(node.args[0]), env)
        return original(self, node, env)

    monkeypatch.setattr(_body.BodyBuilder, "_call", wrong)
    with pytest.raises(VerificationError) as caught:
        compile(Chain(), (torch.randn(4, 5),), keep_intermediates=str(tmp_path / "kept"))
    assert "sin" in caught.value.operator
    assert caught.value.relative_error > 1e-2
    message = str(caught.value)
    assert "sin" in message
    assert "x float32[4, 5] from " in message
    assert "nothing was written" in message
    assert "\n" not in message
    x, source, compiled = (np.load(tmp_path / "kept" / f"{each}.npz") for each in ("inputs", "source", "compiled"))
    np.testing.assert_allclose(source[source.files[0]], np.sin(np.exp(x["x"])), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(compiled[source.files[0]], np.cos(np.exp(x["x"])), rtol=1e-5, atol=1e-4)
    (tmp_path / "a file").touch()
    with pytest.raises(VerificationError, match="first difference is at .*sin.*; its arrays could not be kept"):
        compile(Chain(), (torch.randn(4, 5),), keep_intermediates=str(tmp_path / "a file"))


class Grows(torch.nn.Module):
    """The product is exact, and the first whose result is off by more than the tolerance; what its inputs' roundings move is little."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 0.01
        return -(torch.exp(x) * torch.tanh(x + 2))


def _grows() -> onnx.ModelProto:
    two, little = (onnx.numpy_helper.from_array(np.float16(v), n) for v, n in ((2, "two"), (0.01, "little")))
    nodes = [
        onnx.helper.make_node("Mul", ["x", "little"], ["h"]),
        onnx.helper.make_node("Exp", ["h"], ["e"], name="first"),
        onnx.helper.make_node("Add", ["h", "two"], ["s"]),
        onnx.helper.make_node("Tanh", ["s"], ["t"]),
        onnx.helper.make_node("Mul", ["e", "t"], ["m"]),
        onnx.helper.make_node("Neg", ["m"], ["y"]),
    ]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, [4, 5]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], [two, little])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("source", ["torch", "onnx"])
def test_where_errors_add_up_the_operator_with_the_largest_of_its_own_is_named(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maas_rt.compiler.codegen import _body
    from tvm import tirx

    original = _body.BodyBuilder._call
    off = {"tirx.exp": 1.008, "tirx.tanh": 1.004}

    def inexact(self: Any, node: Any, env: Any) -> Any:
        result = original(self, node, env)
        return result * tirx.const(off[node.op.name], "float32") if node.op.name in off else result

    monkeypatch.setattr(_body.BodyBuilder, "_call", inexact)
    with pytest.raises(
        VerificationError, match="the errors of its operators add up; operator .* has the largest"
    ) as caught:
        if source == "torch":
            compile(Grows(), (torch.linspace(-1, 1, 20, dtype=torch.float16).reshape(4, 5),))
        else:
            compile(_grows())
    assert caught.value.operator == {"torch": "exp (aten.exp.default)", "onnx": "first (Exp)"}[source]
    assert 0.006 < caught.value.relative_error < 0.0095
    assert "; behind operator" in str(caught.value) and "output" in str(caught.value)


def test_a_constant_output_is_no_evidence_and_the_manifest_says_so() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, torch.zeros_like(x) + 3

    manifest = compile(Half(), (torch.randn(4, 5),)).manifest
    assert len(manifest["verified"]["constant_outputs"]) == 1
    assert manifest["verified"]["constant_outputs"][0] == manifest["outputs"][1]["name"]


def test_unverified_artifacts_say_so() -> None:
    assert compile(Chain(), (torch.randn(4, 5),), verify=False).manifest["verified"] == {"status": "skipped"}


def test_a_foreign_target_is_verified_by_a_host_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler import _pipeline

    monkeypatch.setattr(_pipeline, "runs_on_this_cpu", lambda name: False)
    manifest = compile(Chain(), (torch.randn(4, 5),), target="x86-64-v2").manifest
    assert manifest["verified"]["status"] == "host-build"
    assert manifest["targets"] == ["x86-64-v2"]


def test_a_source_that_runs_on_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.importers.torch.source import TorchSource

    def refuse(self: Any, inputs: Any) -> Any:
        raise ValueError("no such values\nand a second line")

    monkeypatch.setattr(TorchSource, "run", refuse)
    with pytest.raises(CompileError, match="no such values") as caught:
        compile(Chain(), (torch.randn(4, 5),))
    assert "\n" not in str(caught.value)


def test_usual_sizes_are_drawn_where_small_ones_do_not_run() -> None:
    """Down by pooling and up again: only multiples of 256 add up, and nothing in the file says so."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MaxPool", ["x"], ["half"], kernel_shape=[2, 2], strides=[256, 256]),
        helper.make_node("Resize", ["half", "", "back"], ["up"], mode="nearest"),
        helper.make_node("Add", ["x", "up"], ["y"]),
    ]
    f = onnx.TensorProto.FLOAT
    back = helper.make_tensor("back", f, [4], [1.0, 1.0, 256.0, 256.0])
    sides = ["n", 1, "h", "w"]
    graph = helper.make_graph(nodes, "g", [info("x", f, sides)], [info("y", f, sides)], [back])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert compile(model).manifest["verified"]["runs"] == 1
    drawn = [each["x"].shape for each in sample_inputs(import_model(model), OPTIONS, None, enough=lambda: False)]
    assert drawn[0] == (1, 1, 64, 64)
    assert (2, 1, 256, 256) in drawn
    assert drawn[-1] == (1, 1, 1, 1)
    assert max(np.prod(shape) for shape in drawn) < 1 << 24


def steep(by: float, dtype: type[np.floating[Any]]) -> tuple[Any, Any]:
    """A source whose output a rounding of its inputs moves by `by` times as much, and what makes an artifact of it that is off."""

    class Steep:
        def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"y": np.sin(inputs["x"].astype(np.float64) * by).astype(dtype)}

        def interrupt(self) -> None: ...

        def with_moved_scales(self, share: float, trial: int = 0) -> None:
            """It quantizes nothing."""

    class Off:
        inputs = (type("Info", (), {"name": "x"}),)
        manifest: ClassVar[dict[str, Any]] = {"states": []}

        def __init__(self, off: float) -> None:
            self.off = dtype(off)

        def run(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {"y": source.run(inputs)["y"] + self.off}

    source = Steep()
    return source, Off


@pytest.mark.parametrize(
    ("factor", "by", "passes"), [(1e6, 0.01, True), (1.0, 0.01, False), (1e-7, 1e-7, True), (1e-7, 2e-7, False)]
)
def test_an_output_that_one_rounding_moves_may_differ_by_as_much(factor: float, by: float, passes: bool) -> None:
    source, off = steep(factor, np.float32)
    inputs = {"x": np.linspace(1, 2, 50, dtype=np.float32)}
    report = Report()
    difference = compare_run(off(by), source, inputs, source.run(inputs), OPTIONS, report)
    assert (difference is None) == passes
    assert report.unsteady == ({"y"} if passes else set())


@pytest.mark.parametrize(("by", "passes"), [(0.015, True), (0.05, False)])
def test_float16_is_moved_by_one_rounding(by: float, passes: bool) -> None:
    """Sums are float32 there: what an implementation may round otherwise is a step of each result, not those of a whole sum."""
    source, off = steep(3, np.float16)
    inputs = {"x": np.linspace(1, 2, 50, dtype=np.float16)}
    assert (compare_run(off(by), source, inputs, source.run(inputs), OPTIONS, Report()) is None) == passes


def test_inputs_of_eight_bits_are_not_moved() -> None:
    class Widen:
        def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"y": inputs["x"].astype(np.float32)}

        def interrupt(self) -> None: ...

        def with_moved_scales(self, share: float, trial: int = 0) -> None: ...

    source: Any = Widen()
    inputs = {"x": np.arange(1, 5).astype(ml_dtypes.float8_e5m2)}
    assert movements(source, inputs, source.run(inputs), OPTIONS) == {"y": 0.0}


def test_the_recorded_error_is_a_power_of_ten() -> None:
    report = Report(max_relative_error=3.2e-7, runs=1, telling={"y"})
    model = import_model(Chain(), (torch.randn(2, 2),))
    assert report.to_manifest(model)["max_relative_error"] == 1e-6


def test_verify_file(tmp_path: Path) -> None:
    class Scale(torch.nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.by

    x = torch.randn(3, 4)
    compile(Scale(2.0), (x,)).save(tmp_path / "m.mrt")
    same = torch.export.export(Scale(2.0), (x,))
    report = verify_file(tmp_path / "m.mrt", same)
    assert report.cases >= 2
    assert max(report.outputs.values()) <= 1e-6
    with pytest.raises(VerificationError, match="differ"):
        verify_file(tmp_path / "m.mrt", torch.export.export(Scale(3.0), (x,)))
    assert verify_file(tmp_path / "m.mrt", same, inputs=[x.numpy()]).cases >= 2
    with pytest.raises(InvalidArgumentError, match="the given inputs are y; the model's are x"):
        verify_file(tmp_path / "m.mrt", same, inputs={"y": x.numpy()})


FOURS = """
import torch
class Fours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 3)
    def forward(self, x):
        torch._check(x.shape[0] % 4 == 0)
        return torch.nn.functional.interpolate(self.linear(x)[None, None], scale_factor=(0.1, 1.0))
build = Fours
"""


def test_a_factory_is_traced_within_the_bounds_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Multiples of 4 from 12 on: neither 2 nor 12, a tenth of which is 1, tells what the model is."""
    (tmp_path / "of_fours.py").write_text(FOURS)
    monkeypatch.syspath_prepend(tmp_path)
    import of_fours  # type: ignore[import-not-found]

    torch.save(of_fours.build().state_dict(), tmp_path / "w.pt")
    options: dict[str, Any] = {"dynamic": {"x": {0: (12, 64)}}, "factory": "of_fours:build"}
    compile(tmp_path / "w.pt", {"x": torch.randn(24, 6)}, **options, verify=False).save(tmp_path / "m.mrt")
    assert verify_file(tmp_path / "m.mrt", tmp_path / "w.pt", factory="of_fours:build").cases >= 2
    for opened in (maas_rt.load(tmp_path / "m.mrt"), maas_rt.capi.load(str(tmp_path / "m.mrt"))):
        (info,) = opened.inputs
        assert (info.bounds, info.multiples) == (((12, 64), (6, 6)), (4, 1))
    assert main(["inspect", str(tmp_path / "m.mrt")]) == 0
    assert "x_dim0 = 12..64, a multiple of 4" in capsys.readouterr().out


# ---- loops without an end


def _endless() -> onnx.ModelProto:
    """do y = x while max(y) >= 0: an end after one iteration where all of x is negative, else none."""
    bool_, float_ = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["v", "one"], ["w"]),
            helper.make_node("ReduceMax", ["w"], ["top"], keepdims=0),
            helper.make_node("Less", ["top", "zero"], ["all"]),
            helper.make_node("Not", ["all"], ["more"]),
        ],
        "body",
        [info("i", onnx.TensorProto.INT64, []), info("c", bool_, []), info("v", float_, [3])],
        [info("more", bool_, []), info("w", float_, [3])],
    )
    constants = [
        helper.make_tensor("one", float_, [], [1.0]),
        helper.make_tensor("zero", float_, [], [0.0]),
        helper.make_tensor("true", bool_, [], [True]),
    ]
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    graph = helper.make_graph([loop], "g", [info("x", float_, [3])], [info("y", float_, [3])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_configs, "VerifyOptions", partial(VerifyOptions, seconds=1.0))


@pytest.mark.parametrize("reference", ["onnxruntime", "onnx.reference"])
def test_a_loop_without_an_end_on_drawn_inputs(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    _impatient(monkeypatch)
    if reference == "onnx.reference":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CompileError, match="did not finish within 1 s.*--input real.npz.*--no-verify") as caught:
        compile(_endless())
    assert "\n" not in str(caught.value)
    manifest = compile(_endless(), {"x": np.float32([-1, -2, -3])}).manifest
    assert manifest["verified"]["runs"] == 1
    assert manifest["verified"]["unfinished"] == 1


def test_torch_loops_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Until(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.while_loop(lambda v: (v * v).sum() >= 0, lambda v: (v.sin(),), (x,))[0]

    _impatient(monkeypatch)
    program = torch.export.export(Until(), (torch.randn(3),))
    with pytest.raises(CompileError, match="did not finish within 1 s"):
        compile(program)


def test_an_artifact_that_does_not_finish_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.importers.onnx._source import OnnxSource

    _impatient(monkeypatch)
    monkeypatch.setattr(OnnxSource, "run", lambda self, inputs: {"y": inputs["x"]})
    with pytest.raises(VerificationError, match="the compiled model did not finish within 1 s"):
        compile(_endless())


def test_the_limit_leaves_results_and_errors_as_they_are() -> None:
    assert within(5.0, lambda: 7) == 7
    with pytest.raises(KeyError):
        within(5.0, lambda: {}[1])
    with pytest.raises(OverdueError):
        within(0.1, _swallowing)


def _swallowing() -> None:
    """Goes on although it was told once to end."""
    for _ in range(2):
        try:
            while True:
                pass
        except BaseException:
            continue
    raise ValueError("ended late")


def test_drawn_inputs_that_leave_nothing_are_no_evidence() -> None:
    """A window larger than the image: ONNX's formula gives no element, ONNX Runtime rounds to one."""
    info = helper.make_tensor_value_info
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], strides=[3, 2])
    f = onnx.TensorProto.FLOAT
    graph = helper.make_graph([pool], "g", [info("x", f, [1, 2, 3, "w"])], [info("y", f, [1, 2, 1, "v"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    verified = compile(model, dynamic={"x": {3: (1, 9)}}).manifest["verified"]
    assert verified["runs"] == 1  # the medium size alone

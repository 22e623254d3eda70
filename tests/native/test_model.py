"""Model and Session: calls, results, the caller's buffers, and a sentence for every mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt import Profile, StepRecord, _kernels
from tests import _tiny

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def mlp() -> maas_rt.Model:
    return maas_rt.load(_tiny.mlp("batch"), threads=1)


@pytest.fixture(scope="module")
def two() -> maas_rt.Model:
    return maas_rt.load(_tiny.two_outputs())


A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(6).reshape(2, 3)


def test_a_call_gives_the_output(mlp: maas_rt.Model) -> None:
    for batch in (1, 3, 1, 64):
        x = RNG.standard_normal((batch, 16), np.float32)
        y = mlp(x)
        assert isinstance(y, np.ndarray)
        np.testing.assert_allclose(y, _tiny.reference_mlp(x), rtol=1e-5, atol=1e-5)


def test_a_fixed_shape_gives_the_output() -> None:
    x = RNG.standard_normal((1, 16), np.float32)
    np.testing.assert_allclose(maas_rt.load(_tiny.mlp(1))(x), _tiny.reference_mlp(x), rtol=1e-5, atol=1e-5)


def test_results_own_their_memory(mlp: maas_rt.Model) -> None:
    for batch in (1, 1024):  # below and above the size from which memory is aligned
        x = RNG.standard_normal((batch, 16), np.float32)
        first = mlp(x)
        kept = first.copy()
        second = mlp(x + 1)
        assert not np.shares_memory(first, second)
        np.testing.assert_array_equal(first, kept)
        first += 1  # writable


def test_several_outputs_are_a_dict_by_name(two: maas_rt.Model) -> None:
    for results in (two(A, B), two(a=A, b=B), two(A, b=B), two.run({"b": B, "a": A})):
        assert list(results) == ["aa", "bt"]
        np.testing.assert_array_equal(results["aa"], np.concatenate([A, A]))
        np.testing.assert_array_equal(results["bt"], B.T)
        assert results["bt"].dtype == np.int64


def test_what_a_model_says_about_itself(mlp: maas_rt.Model, two: maas_rt.Model) -> None:
    assert mlp.inputs == (maas_rt.TensorInfo("x", "float32", ("batch", 16), ((1, 1024), (16, 16))),)
    assert [(o.name, o.dtype, o.shape) for o in two.outputs] == [("aa", "float32", (4, 3)), ("bt", "int64", (3, 2))]
    assert mlp.manifest["name"] == "mlp"
    assert mlp.entries == ("main",)
    assert mlp.states == ()
    assert repr(mlp) == "<maas_rt.Model x: float32[batch, 16] -> y: float32[batch, 8]>"


def test_results_go_into_the_callers_buffers(mlp: maas_rt.Model) -> None:
    x = RNG.standard_normal((5, 16), np.float32)
    buffer = np.full((5, 8), np.nan, np.float32)
    assert mlp.run({"x": x}, out={"y": buffer})["y"] is buffer
    np.testing.assert_array_equal(buffer, mlp(x))
    strided = np.full((5, 16), np.nan, np.float32)[:, ::2]
    assert mlp.run({"x": x}, out={"y": strided})["y"] is strided
    np.testing.assert_array_equal(strided, mlp(x))


def test_some_buffers_may_be_given(two: maas_rt.Model) -> None:
    buffer = np.zeros((3, 2), np.int64)
    results = two.run({"a": A, "b": B}, out={"bt": buffer})
    assert results["bt"] is buffer
    np.testing.assert_array_equal(buffer, B.T)
    np.testing.assert_array_equal(results["aa"], np.concatenate([A, A]))


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


MISTAKES: list[tuple[str, Callable[[maas_rt.Model], Any]]] = [
    (r"'x'.*float64.*float32", lambda m: m(np.zeros((1, 16)))),
    (r"'x'.*int32.*float32", lambda m: m(np.zeros((1, 16), np.int32))),
    (r"'x'.*(3|rank|dimensions)", lambda m: m(np.zeros((1, 1, 16), np.float32))),
    (r"'x'.*17.*16", lambda m: m(np.zeros((1, 17), np.float32))),
    (r"batch.*1024", lambda m: m(np.zeros((1025, 16), np.float32))),
    (r"batch.*1", lambda m: m(np.zeros((0, 16), np.float32))),
    ("'x' is missing; the inputs are: x", lambda m: m()),
    ("'x' is missing", lambda m: m.run({})),
    ("called with 2 inputs and has 1: x", lambda m: m(np.zeros((1, 16), np.float32), 1)),
    ("no input 'z'; its inputs are: x", lambda m: m(z=np.zeros((1, 16), np.float32))),
    ("no input 'z'; its inputs are: x", lambda m: m.run({"x": np.zeros((1, 16), np.float32), "z": 1})),
    ("names are text, and one is 7", lambda m: m.run({"x": np.zeros((1, 16), np.float32), 7: 1})),
    ("'x' is given twice", lambda m: m(np.zeros((1, 16), np.float32), x=1)),
    ("'x' is a list and must be an array", lambda m: m([[0.0] * 16])),
    ("'x' is a NoneType and must be an array", lambda m: m(None)),
    ("dtype object", lambda m: m(np.zeros((1, 16), object))),
    ("masked array.*filled", lambda m: m(np.ma.masked_array(np.zeros((1, 16), np.float32), False))),
    ("dtype <U1", lambda m: m(np.full((1, 16), "a"))),
    ("dtype datetime64", lambda m: m(np.zeros((1, 16), "M8[s]"))),
    ("takes one dict", lambda m: m.run(np.zeros((1, 16), np.float32))),
    ("takes one dict", lambda m: m.run()),
    ("no option 'timeout'", lambda m: m.run({}, timeout=1)),
    ("deadline is 'soon'", lambda m: m.run({}, deadline="soon")),
    ("deadline is nan", lambda m: m.run({}, deadline=float("nan"))),
    ("cancel is a bool", lambda m: m.run({}, cancel=True)),
    ("state is a dict", lambda m: m.run({}, state={})),
    ("no entry point 'decode'; it has: main", lambda m: m.run({}, entry="decode")),
    ("out is a list", lambda m: m.run({}, out=[])),
    ("inputs is a ndarray and must be a dict", lambda m: m.run_async(np.zeros((1, 16), np.float32))),
    ("inputs is a ndarray and must be a dict", lambda m: m.profile(np.zeros((1, 16), np.float32))),
    ("out is a list and must be a dict", lambda m: m.run_async({}, out=[1])),
    ("deadline is 'soon'", lambda m: m.run_async({}, deadline="soon")),
    ("no output 'z'; its outputs are: y", lambda m: m.run({}, out={"z": np.zeros(1)})),
    ("threads is -1", lambda m: m.session(threads=-1)),
    ("threads is True", lambda m: m.session(threads=True)),
]


@pytest.mark.parametrize(("sentence", "mistake"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_a_mistake_gives_one_sentence(mlp: maas_rt.Model, sentence: str, mistake: Callable[[Any], Any]) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=sentence) as caught:
        mistake(mlp)
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    assert len(re.findall(r"\.\s+[A-Z]", text)) == 0, text


@pytest.mark.parametrize(
    ("buffer", "sentence"),
    [
        (np.zeros((2, 8), np.float64), "dtype float64 and must have float32"),
        (np.zeros((2, 9), np.float32), r"shape \(2, 9\) and must have \('batch', 8\)"),
        (np.zeros((2, 8, 1), np.float32), r"shape \(2, 8, 1\)"),
        (np.zeros((3, 8), np.float32), r"shape \[3, 8\] and the result has \[2, 8\]"),
        (read_only(np.zeros((2, 8), np.float32)), "read-only"),
        (np.zeros((2, 16), np.float64)[:, ::2], "dtype float64"),
        ([0.0], "is a list and must be a writable array"),
        (np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (2, 8), (0, 4)), "lie in one place"),
        (np.lib.stride_tricks.as_strided(np.zeros(12, np.float32), (2, 8), (16, 4)), "lie in one place"),
        (np.ma.masked_array(np.zeros((2, 8), np.float32), False), "is a masked array"),
    ],
)
def test_a_wrong_buffer_gives_one_sentence(mlp: maas_rt.Model, buffer: Any, sentence: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=sentence):
        mlp.run({"x": np.zeros((2, 16), np.float32)}, out={"y": buffer})


def test_a_buffer_that_is_too_small_is_not_written_past(mlp: maas_rt.Model) -> None:
    memory = np.full((4, 8), 7, np.float32)
    with pytest.raises(maas_rt.InvalidArgumentError):
        mlp.run({"x": np.zeros((4, 16), np.float32)}, out={"y": memory[:2]})
    np.testing.assert_array_equal(memory[2:], 7)


def test_a_wrong_call_leaves_the_model_usable(mlp: maas_rt.Model) -> None:
    x = RNG.standard_normal((2, 16), np.float32)
    before = mlp(x)
    for _ in range(3):
        with pytest.raises(maas_rt.InvalidArgumentError):
            mlp(np.zeros((2, 15), np.float32))
    np.testing.assert_array_equal(mlp(x), before)


def test_an_error_of_the_run_is_one_sentence() -> None:
    model = maas_rt.load(_tiny.gather())
    table = RNG.standard_normal((5, 2), np.float32)
    np.testing.assert_array_equal(model(table, np.array([0, -1, 4])), table[[0, -1, 4]])
    with pytest.raises(maas_rt.Error, match="out of range|outside") as caught:
        model(table, np.array([0, 5, 0]))
    assert caught.value.status == "MRT_ERROR_RUN"


def test_a_session_of_ones_own(mlp: maas_rt.Model) -> None:
    session = mlp.session(threads=1)
    x = RNG.standard_normal((2, 16), np.float32)
    np.testing.assert_array_equal(session(x), mlp(x))
    np.testing.assert_array_equal(session.run({"x": x})["y"], mlp(x))
    assert session.memory() > 0
    assert session.inputs == mlp.inputs


def test_a_session_keeps_its_memory(mlp: maas_rt.Model) -> None:
    session = mlp.session()
    x = RNG.standard_normal((8, 16), np.float32)
    session(x)
    held = session.memory()
    for _ in range(20):
        session(x)
    assert session.memory() == held


def test_a_profile_names_every_step(mlp: maas_rt.Model, tmp_path: Path) -> None:
    profile = mlp.profile({"x": RNG.standard_normal((4, 16), np.float32)})
    assert len(profile.records) == 2
    assert all("gemm" in record.kernel for record in profile.records)
    assert profile.records[0].flops == pytest.approx(2 * 4 * 16 * 32, rel=0.1)
    assert profile.total_ns > 0
    assert "gemm" in profile.table()
    profile.trace(tmp_path / "trace.json")
    assert "traceEvents" in (tmp_path / "trace.json").read_text()


def test_a_profile_is_held_against_the_roofline() -> None:
    step = StepRecord("linear", "gemm", 0, 1000, flops=50e3, bytes=4e3)  # 1 us at 50 GFLOP/s and 4 GB/s
    moved = StepRecord("copy", "concat", 1000, 1000, flops=0.0, bytes=10e3)
    lines = Profile((step, moved)).table((100.0, 20.0)).splitlines()
    assert "roofline" in lines[0]
    assert "50 %" in lines[1] and "linear" in lines[1]
    assert "50 %" in lines[2] and "copy" in lines[2]
    assert "roofline" not in Profile((step, moved)).table()


def test_the_machine_has_rates() -> None:
    gflops, gbps = _kernels.machine_rates(1)
    assert 0.1 < gflops < 1e4 and 0.1 < gbps < 1e4
    with pytest.raises(maas_rt.InvalidArgumentError, match="threads, expected 1 to"):
        _kernels.machine_rates(_kernels.cpu_count() + 1)


def test_native_types_cannot_be_misused(mlp: maas_rt.Model) -> None:
    with pytest.raises(TypeError):
        maas_rt.Model("model.mrt")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        maas_rt.Model()  # type: ignore[call-arg]
    with pytest.raises(maas_rt.InvalidArgumentError, match="not initialised"):
        maas_rt.Model.__new__(maas_rt.Model).run({})

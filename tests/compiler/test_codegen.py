"""Generated functions against numpy: every form of schedule, many element types, sizes around the vector width, symbolic extents."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from maas_rt.compiler.codegen import build_code, native_level, resolve_targets, schedule_function
from tvm import te, tirx, topi
from tvm.sym import Analyzer

from tests.compiler._code_section import CodeSection

N = tirx.Var("n", "int64")
TOLERANCE = {"float32": 4e-6, "float64": 1e-12, "float16": 8e-3}


@dataclass(frozen=True)
class Case:
    """A TE expression over inputs (shape, dtype), what numpy says it is, and the value of the symbol n."""

    name: str
    inputs: tuple[tuple[tuple[Any, ...], str], ...]
    build: Callable[..., Any]
    expected: Callable[..., Any]
    n: int = 0
    tolerance: float = 0.0


def _softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _typed_cases(dtype: str) -> list[Case]:
    tol = TOLERANCE.get(dtype, 0.0)
    x2, m = ((N, 37), dtype), (("float16", "float32", "float64").count(dtype))

    def case(name: str, inputs: Any, build: Any, expected: Any, n: int = 0, tolerance: float = tol) -> Case:
        return Case(f"{name}_{dtype}", tuple(inputs), build, expected, n, tolerance)

    cases = [
        case("chain", [x2, x2], lambda x, y: topi.multiply(topi.add(x, y), topi.subtract(x, y)), lambda x, y: (x + y) * (x - y), 13),
        case("broadcast", [((N, 3), dtype), ((3,), dtype)], topi.maximum, np.maximum, 9, 0.0),
        case("scalar", [((), dtype), ((), dtype)], topi.add, lambda x, y: np.asarray(x + y)),
        case("transpose", [((5, N, 7), dtype)], lambda x: topi.transpose(x, (2, 0, 1)), lambda x: x.transpose(2, 0, 1), 6, 0.0),
        case("concat", [((5, N), dtype), ((5, 9), dtype)], lambda x, y: topi.concatenate([x, y], 1), lambda x, y: np.concatenate([x, y], 1), 6, 0.0),
        case("where", [((5, N), "bool"), ((5, N), dtype), ((N,), dtype)], topi.where, np.where, 6, 0.0),
        case("to_float32", [((5, N), dtype)], lambda x: topi.cast(x, "float32"), lambda x: x.astype("float32"), 6, 0.0),
        case("compare", [x2, x2], lambda x, y: topi.logical_and(topi.less(x, y), topi.not_equal(x, y)), lambda x, y: (x < y) & (x != y), 6, 0.0),
        case("pad", [((N, 8, 8), dtype)], lambda x: topi.nn.pad(topi.add(x, x), (0, 1, 1), (0, 1, 2)), lambda x: np.pad(x + x, ((0, 0), (1, 1), (1, 2))), 3),
        case("gather", [((N, 8), dtype), ((3, 4), "int64")], lambda x, i: topi.take(x, topi.floor_mod(i, topi.full_like(i, 7)), axis=0, mode="clip"), lambda x, i: x[np.mod(i, 7)], 7, 0.0),
        case("reshape", [((N, 8, 8), dtype)], lambda x: topi.add(topi.reshape(topi.add(x, x), (N, 64)), topi.reshape(x, (N, 64))), lambda x: (x + x + x).reshape(-1, 64), 7),
        case("cumsum", [((4, 10), dtype)], lambda x: topi.cumsum(x, axis=1), lambda x: np.cumsum(x, 1, dtype=x.dtype), 0, tol * 20),
        case("max_rows", [((6, 50), dtype)], lambda x: topi.max(x, axis=1), lambda x: x.max(1), 0, 0.0),
        case("sum_columns", [((50, 33), dtype)], lambda x: topi.sum(x, axis=0), lambda x: x.sum(0, dtype=x.dtype), 0, tol * 40),
        case("sum_columns_symbolic", [((50, N), dtype)], lambda x: topi.sum(x, axis=0), lambda x: x.sum(0, dtype=x.dtype), 45, tol * 40),
        case("sum_rows", [((N, 133), dtype)], lambda x: topi.sum(x, axis=1, keepdims=True), lambda x: x.sum(1, keepdims=True, dtype=x.dtype), 5, tol * 40),
        case("sum_all", [((11, N), dtype)], topi.sum, lambda x: x.sum(dtype=x.dtype), 77, tol * 60),
        case("argmax", [((4, 61), dtype)], lambda x: topi.argmax(x, axis=1, select_last_index=False), lambda x: x.argmax(1).astype("int32"), 0, 0.0),
        case("matmul", [((9, N), dtype), ((N, 21), dtype)], topi.nn.matmul, lambda x, y: (x @ y).astype(x.dtype), 34, tol * 40),
        case("matmul_transposed", [((9, 64), dtype), ((21, 64), dtype)], lambda x, y: topi.nn.matmul(x, y, transpose_b=True), lambda x, y: (x @ y.T).astype(x.dtype), 0, tol * 40),
        case("batch_matmul", [((3, 10, 64), dtype), ((3, 64, 27), dtype)], lambda x, y: topi.nn.batch_matmul(x, y, transpose_b=False), lambda x, y: (x @ y).astype(x.dtype), 0, tol * 60),
    ]  # fmt: skip
    if m:
        cases += [
            case("exp", [x2], topi.exp, np.exp, 11),
            case("tanh", [x2], topi.tanh, np.tanh, 11),
            case("sigmoid", [x2], topi.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 11),
            case("sin", [x2], topi.sin, np.sin, 11),
            case("round", [x2], topi.round, np.round, 11),
            case("power", [x2], lambda x: topi.power(topi.abs(x), topi.abs(x)), lambda x: np.abs(x) ** np.abs(x), 11),
            case("softmax", [x2], lambda x: topi.nn.softmax(x, -1), lambda x: _softmax(x, -1), 9),
        ]
    return cases


def _conv1d(x: Any, w: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1))), 3, axis=2)
    return np.einsum("nclk,ock->nol", windows, w)


def _conv2d(x: Any, w: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    return np.einsum("nchwkl,ockl->nohw", windows, w)


def _layer_norm(x: Any, g: Any, b: Any) -> Any:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * g + b


def _mish(x: Any, lib: Any) -> Any:
    """Three functions in a chain, each with its argument in several places."""
    return lib.multiply(x, lib.tanh(lib.log(lib.add(lib.exp(x), np.float32(1)))))


F32 = "float32"
OTHERS = ("float64", "float16", "int32", "int64", "int8", "uint8")
CASES = [case for dtype in (F32, *OTHERS) for case in _typed_cases(dtype)] + [
    Case("softmax_middle", (((N, 7, 19), F32),), lambda x: topi.nn.softmax(x, 1), lambda x: _softmax(x, 1), 9, 4e-6),
    Case("log_softmax", (((N, 77), F32),), lambda x: topi.nn.log_softmax(x, -1), lambda x: np.log(_softmax(x, -1)), 9, 4e-6),
    Case("long_chain", (((N, 77), F32),), lambda x: _mish(_mish(x, topi), topi), lambda x: _mish(_mish(x, np), np), 9, 4e-6),
    Case("long_chain_in_a_branch", (((N, 77), F32),), lambda x: topi.nn.pad(_mish(x, topi), [0, 1], [0, 2]), lambda x: np.pad(_mish(x, np), ((0, 0), (1, 2))), 9, 4e-6),
    Case("conv1d", (((2, 5, 30), F32), ((7, 5, 3), F32)), lambda x, w: topi.nn.conv1d(x, w, 1, 1, 1), _conv1d, 0, 1e-5),
    Case("conv2d", (((N, 5, 14, 15), F32), ((7, 5, 3, 3), F32)), lambda x, w: topi.nn.conv2d(x, w, 1, 1, 1), _conv2d, 2, 1e-5),
    Case("layer_norm", (((N, 64), F32), ((64,), F32), ((64,), F32)), lambda x, g, b: topi.nn.layer_norm(x, g, b, axis=[1]), _layer_norm, 9, 5e-6),
    Case("prod", (((6, 50), F32),), lambda x: topi.prod(x, axis=1), lambda x: x.prod(1), 0, 1e-5),
    Case("all", (((6, 50), "bool"),), lambda x: topi.all(x, axis=1), lambda x: x.all(1)),
    Case("any", (((6, 50), "bool"),), lambda x: topi.any(x, axis=1), lambda x: x.any(1)),
    Case("parallel_rows", (((N, 1000), F32), ((1000,), F32)), lambda x, y: topi.add(topi.exp(x), y), lambda x, y: np.exp(x) + y, 200, 4e-6),
    Case("parallel_few_long_rows", (((2, 60001), F32), ((2, 1), F32)), lambda x, y: topi.add(topi.exp(x), y), lambda x, y: np.exp(x) + y, 0, 4e-6),
    Case("parallel_flat", (((200, 1001), F32), ((200, 1001), F32)), lambda x, y: topi.add(topi.exp(x), y), lambda x, y: np.exp(x) + y, 0, 4e-6),
    Case("parallel_sum", (((300, 1000), F32),), lambda x: topi.sum(x, axis=1), lambda x: x.sum(1), 0, 3e-5),
    Case("parallel_sum_columns", (((300, 1001), F32),), lambda x: topi.sum(x, axis=0), lambda x: x.sum(0), 0, 3e-5),
    Case("sum_of_squares_nchw", (((N, 6, 9, 10), F32),), lambda x: topi.sum(topi.multiply(x, x), axis=[0, 2, 3]), lambda x: (x * x).sum((0, 2, 3)), 3, 3e-5),
]  # fmt: skip


@dataclass(frozen=True)
class Built:
    section: Any
    outputs: dict[str, tuple[tuple[Any, ...], str]]


def _prim_func(case: Case) -> tuple[Any, tuple[tuple[Any, ...], str]]:
    inputs = [te.placeholder(shape, dtype, name=f"a{i}") for i, (shape, dtype) in enumerate(case.inputs)]
    out = case.build(*inputs)
    out = out[0] if isinstance(out, (list, tuple)) else out
    return te.create_prim_func([*inputs, out]), (tuple(out.shape), str(out.dtype))


# v2 gets the cases of float32 alone, to save time; v3 is left out where the CPU could not run it.
RUNS = [("x86-64-v3", case) for case in CASES if native_level() == "x86-64-v3"]
RUNS += [("x86-64-v2", case) for case in CASES if not case.name.endswith(OTHERS)]


@functools.cache
def _built(target: str) -> Built:
    """All cases of a target in one code section."""
    made = {case.name: _prim_func(case) for each, case in RUNS if each == target}
    functions = {name: schedule_function(func) for name, (func, _) in made.items()}
    image = build_code(functions, resolve_targets(target)[0])
    return Built(CodeSection(image), {name: out for name, (_, out) in made.items()})


def _extents(shape: tuple[Any, ...], n: int) -> tuple[int, ...]:
    analyzer = Analyzer()
    analyzer.bind(N, tirx.IntImm("int64", n))
    return tuple(each if isinstance(each, int) else int(analyzer.simplify(each)) for each in shape)


def _data(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if dtype.startswith(("int", "uint")):
        return np.asarray(rng.integers(0 if dtype[0] == "u" else -50, 50, shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize(("target", "case"), RUNS, ids=[f"{target}-{case.name}" for target, case in RUNS])
def test_against_numpy(target: str, case: Case) -> None:
    built = _built(target)
    rng = np.random.default_rng(7)
    inputs = [_data(rng, _extents(shape, case.n), dtype) for shape, dtype in case.inputs]
    shape, dtype = built.outputs[case.name]
    out = np.full(_extents(shape, case.n), 77).astype(dtype)
    assert built.section.call(case.name, inputs, [out]) == 0, built.section.error
    with np.errstate(all="ignore"):
        expected = np.asarray(case.expected(*inputs))
    assert out.dtype == expected.dtype
    if case.tolerance == 0:
        np.testing.assert_array_equal(out, expected)
    else:
        scale = max(float(np.abs(expected.astype("float64")).max()), 1e-30)
        np.testing.assert_allclose(
            out.astype("float64") / scale, expected.astype("float64") / scale, rtol=0, atol=case.tolerance
        )


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 88.7, -87.5, -100.0, -103.0, 200.0, -200.0, 3e38, 1e-30, 2.0, 8.0, 1e-9, -1e-9]  # fmt: skip
FUNCTIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "exp": (tirx.exp, np.exp),
    "exp2": (tirx.exp2, np.exp2),
    "log": (tirx.log, np.log),
    "log2": (tirx.log2, np.log2),
    "log10": (tirx.log10, np.log10),
    "log1p": (tirx.log1p, np.log1p),
    "tanh": (tirx.tanh, np.tanh),
    "sigmoid": (tirx.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "rsqrt": (tirx.rsqrt, lambda x: 1 / np.sqrt(x)),
    "erf": (tirx.erf, np.vectorize(math.erf)),
}


def _applied(build: Any, x: Any) -> Any:
    return te.compute((1000,), lambda i: build(x[i]), name="y")


@pytest.fixture(scope="module")
def elementary() -> Any:
    x = te.placeholder((1000,), F32, name="x")
    functions = {}
    for name, (build, _) in FUNCTIONS.items():
        functions[name] = schedule_function(te.create_prim_func([x, _applied(build, x)]))
    return CodeSection(build_code(functions, resolve_targets("native")[0]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_hold_their_accuracy_and_limits(elementary: Any, name: str) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([SPECIAL, rng.standard_normal(479) * 5, 10 ** rng.uniform(-20, 20, 500)]).astype(F32)
    y = np.empty(1000, F32)
    assert elementary.call(name, [x], [y]) == 0
    with np.errstate(all="ignore"):
        exact = np.asarray(FUNCTIONS[name][1](x.astype("float64")))
        limit = exact.astype(F32)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(limit))
    infinite = np.isinf(limit)
    np.testing.assert_array_equal(y[infinite], limit[infinite])
    normal = np.isfinite(limit) & (np.abs(limit) > 1e-36)
    relative = np.abs(y[normal] - exact[normal]) / np.abs(exact[normal])
    assert relative.max() < 2e-7, x[normal][relative.argmax()]


def test_maximum_keeps_nan_on_either_side() -> None:
    x, y = (te.placeholder((4,), F32, name=name) for name in "xy")
    func = schedule_function(te.create_prim_func([x, y, topi.maximum(x, y)]))
    relu = schedule_function(te.create_prim_func([x, topi.nn.relu(x)]))
    section = CodeSection(build_code({"maximum": func, "relu": relu}, resolve_targets("native")[0]))
    a, b = np.array([1, np.nan, 2, np.nan], F32), np.array([np.nan, 1, 3, np.nan], F32)
    out = np.zeros(4, F32)
    section.call("maximum", [a, b], [out])
    np.testing.assert_array_equal(out, np.maximum(a, b))
    section.call("relu", [a], [out])
    np.testing.assert_array_equal(out, np.maximum(a, 0))


def test_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    x, y = (te.placeholder((9, 40), "bfloat16", name=name) for name in "xy")
    built = {
        "chain": (topi.multiply(topi.add(x, y), topi.exp(x)), lambda a, b: (a + b) * np.exp(a)),
        "narrow": (topi.cast(topi.cast(x, "float32") * 1.001, "bfloat16"), lambda a, b: a * np.float32(1.001)),
        "wide": (topi.cast(topi.maximum(x, y), "float32"), np.maximum),
        "sum": (topi.sum(x, 1), lambda a, b: a.sum(1)),
        "max": (topi.max(x, 0), lambda a, b: a.max(0)),
    }
    functions = {name: schedule_function(te.create_prim_func([x, y, out])) for name, (out, _) in built.items()}
    section = CodeSection(build_code(functions, resolve_targets("native")[0]))
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((9, 40)).astype(ml_dtypes.bfloat16) for _ in "ab")
    a[0, :3] = [np.nan, np.inf, -np.inf]
    for name, (out, reference) in built.items():
        dtype: Any = F32 if name == "wide" else ml_dtypes.bfloat16
        got = np.zeros([int(each) for each in out.shape], dtype)
        assert section.call(name, [a, b], [got]) == 0, section.error
        with np.errstate(invalid="ignore"):
            want = np.asarray(reference(a.astype(F32), b.astype(F32)))
        np.testing.assert_allclose(
            got.astype(F32), want.astype(dtype).astype(F32), rtol=0.0079 if name in ("chain", "sum") else 0
        )


def test_comparisons_and_tests_of_nan() -> None:
    x, y = (te.placeholder((5,), F32, name=name) for name in "xy")
    built = {
        "differs": (topi.not_equal(x, y), lambda a, b: a != b),
        "equals": (topi.equal(x, y), lambda a, b: a == b),
        "less": (topi.less(x, y), lambda a, b: a < b),
        "at_least": (topi.greater_equal(x, y), lambda a, b: a >= b),
        "is_nan": (topi.isnan(x), lambda a, b: np.isnan(a)),
        "is_infinite": (topi.isinf(x), lambda a, b: np.isinf(a)),
        "is_finite": (topi.isfinite(x), lambda a, b: np.isfinite(a)),
    }
    functions = {name: schedule_function(te.create_prim_func([x, y, out])) for name, (out, _) in built.items()}
    section = CodeSection(build_code(functions, resolve_targets("native")[0]))
    a, b = np.array([1, np.nan, np.nan, np.inf, -np.inf], F32), np.array([np.nan, np.nan, 1, np.inf, 2], F32)
    for name, (_, expected) in built.items():
        out = np.zeros(5, bool)
        assert section.call(name, [a, b], [out]) == 0
        np.testing.assert_array_equal(out, expected(a, b), err_msg=name)


def test_maximum_of_minus_infinity_is_minus_infinity() -> None:
    x = te.placeholder((3, 40), F32, name="x")
    section = CodeSection(
        build_code({"f": schedule_function(te.create_prim_func([x, topi.max(x, 1)]))}, resolve_targets("native")[0])
    )
    out = np.zeros(3, F32)
    section.call("f", [np.full((3, 40), -np.inf, F32)], [out])
    assert (out == -np.inf).all()


def test_small_work_stays_on_one_thread_and_large_work_does_not() -> None:
    x = te.placeholder((N, 64), F32, name="x")
    section = CodeSection(
        build_code({"f": schedule_function(te.create_prim_func([x, topi.add(x, x)]))}, resolve_targets("native")[0])
    )
    for rows, launches in ((4, 0), (5000, 1)):
        a = np.ones((rows, 64), F32)
        out = np.zeros_like(a)
        assert section.call("f", [a], [out]) == 0
        assert (out == 2).all()
        assert section.launches == launches


@pytest.mark.parametrize("build", [topi.exp, lambda x: topi.cumsum(topi.full_like(x, 0.0) + x * 0.0, axis=0) + 1.0])
def test_inputs_need_no_alignment_beyond_their_elements(build: Any) -> None:
    x = te.placeholder((999,), F32, name="x")
    section = CodeSection(
        build_code({"f": schedule_function(te.create_prim_func([x, build(x)]))}, resolve_targets("native")[0])
    )
    a = np.zeros(1001, F32)[1:1000]
    out = np.zeros(1002, F32)[2:1001]
    assert section.call("f", [a], [out]) == 0
    assert (out == 1).all()


def test_a_wrong_shape_is_an_error_with_a_sentence() -> None:
    x = te.placeholder((8, 8), F32, name="x")
    section = CodeSection(
        build_code({"f": schedule_function(te.create_prim_func([x, topi.exp(x)]))}, resolve_targets("native")[0])
    )
    assert section.call("f", [np.zeros((8, 7), F32)], [np.zeros((8, 8), F32)]) != 0
    assert "shape" in section.error

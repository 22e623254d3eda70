"""Long generated loops ask whether the run has to end, and are left when it has; short ones ask nothing, and no result changes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile
from maas_rt.compiler.codegen import build_code, resolve_targets, schedule_function
from tvm import te, topi

import maas_rt
from tests.compiler._code_section import CodeSection


@pytest.fixture(scope="module")
def section() -> CodeSection:
    n = te.var("n", dtype="int64")
    long = te.placeholder((1 << 23,), "float32", name="long")
    open_ = te.placeholder((n,), "float32", name="open")
    a, b = (te.placeholder((600, 600), "int64", name=name) for name in "ab")
    short = te.placeholder((60, 600), "int64", name="short")
    made = {
        "sum": [long, topi.sum(long)],
        "open_sum": [open_, topi.sum(open_)],
        "product": [a, b, topi.matmul(a, b)],
        "running": [long, topi.cumsum(long, axis=0)],
        "short": [short, topi.sum(short, 1)],
    }
    functions = {name: schedule_function(te.create_prim_func(args)) for name, args in made.items()}
    return CodeSection(build_code(functions, resolve_targets("native")[0]), tasks=2)


A, B = (np.random.default_rng(seed).integers(-99, 99, (600, 600)) for seed in (0, 1))
LONG = (np.random.default_rng(2).integers(0, 3, 1 << 23)).astype(np.float32)
CASES: list[tuple[str, list[Any], Any]] = [
    ("sum", [LONG], np.float32(LONG.sum(dtype=np.float64))),
    ("open_sum", [LONG], np.float32(LONG.sum(dtype=np.float64))),
    ("open_sum", [LONG[:1003]], np.float32(LONG[:1003].sum())),
    ("open_sum", [LONG[:0]], np.float32(0)),
    ("product", [A, B], A @ B),
    ("running", [LONG], np.cumsum(LONG, dtype=np.float64).astype(np.float32)),
]


@pytest.mark.parametrize(("name", "inputs", "expected"), CASES)
def test_asks_and_heeds(section: CodeSection, name: str, inputs: list[Any], expected: Any) -> None:
    out = np.zeros_like(expected)
    section.questions, section.most_questions = 0, -1
    assert section.call(name, inputs, [out]) == 0, section.error
    np.testing.assert_array_equal(out, expected)
    asked = section.questions
    if inputs[0].size > 1 << 16:
        assert 2 < asked < 2000, asked  # seldom enough to cost nothing
        for most in (0, asked // 2):
            section.questions, section.most_questions, section.error = 0, most, ""
            assert section.call(name, inputs, [out]) != 0
            assert "has to end" in section.error
            assert section.questions <= most + 2  # of two tasks each asks once more
    else:
        assert asked <= 2


def test_short_functions_ask_nothing(section: CodeSection) -> None:
    section.questions, section.most_questions = 0, 0
    out = np.zeros(60, np.int64)
    assert section.call("short", [A[:60]], [out]) == 0
    np.testing.assert_array_equal(out, A[:60].sum(1))
    assert section.questions == 0


class Serial(torch.nn.Module):
    """What one thread does one after the other, or what is long for its few bytes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "running":
            return torch.cumsum(x, 0)
        if self.kind == "sum":
            return (x.double().tanh() * 2).sum()
        y = (x[: 1 << 18] * 9).long().reshape(512, 512)
        return y @ y


@pytest.mark.parametrize("kind", ["running", "sum", "integers"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_deadline_is_kept(kind: str, threads: int) -> None:
    x = np.random.default_rng(0).random(1 << 22, np.float32)
    model = maas_rt.load(compile(Serial(kind).eval(), (torch.from_numpy(x),), verify=False), threads=threads)
    model(x)
    began = time.process_time()
    model(x)
    whole = time.process_time() - began
    began = time.process_time()
    with pytest.raises(maas_rt.DeadlineExceededError):
        model.run({model.inputs[0].name: x}, deadline=whole / threads / 10)
    assert time.process_time() - began < whole / 2

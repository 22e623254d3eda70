"""A sample of ONNX's backend tests that has each operator once; `make conformance` runs them all."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from tests.conformance import onnx_backend as suite


@functools.cache
def _cases() -> dict[str, Any]:
    return {case.name: case for _, case in suite.load_cases(("node",))}


def _sample() -> list[str]:
    """The first case of each operator, in the order of names: few nodes first, so that a case is about its operator."""
    chosen: dict[str, str] = {}
    for name, case in sorted(_cases().items(), key=lambda item: (len(item[1].model.graph.node), item[0])):
        for node in case.model.graph.node:
            chosen.setdefault(f"{node.domain}:{node.op_type}", name)
    return sorted(set(chosen.values()))


@functools.cache
def _expected_failures() -> frozenset[str]:
    return frozenset(json.loads(suite.EXPECTED.read_text())["onnx"])


@pytest.mark.parametrize("name", _sample())
def test_sample(name: str) -> None:
    result, message = suite.run_case(_cases()[name], "runtime")
    if name in _expected_failures():
        assert result in ("refused", "random"), (
            f"{result}: {message}: if it passes now, run `python -m tests.conformance onnx --update`"
        )
    else:
        assert result == "pass", message


def test_nothing_in_the_recorded_run_was_wrong() -> None:
    table = json.loads((suite.RESULTS / "onnx.json").read_text())["table"]
    assert all(row["wrong"] == row["crash"] == 0 for row in table.values())
    assert table["node, opset <= 27"]["pass"] >= 1613

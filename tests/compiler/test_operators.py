"""`maas-rt ops`: the list of what can be imported is read off the code, and the page in docs/ is what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from maas_rt.compiler.operators import supported_operators

import maas_rt
from maas_rt._cli import main

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_operators_with_versions_and_types() -> None:
    onnx = {operator.name: operator for operator in supported_operators("onnx")}
    assert {1, 6, 7, 13, 14} <= set(onnx["Add"].versions)
    assert {"float32", "int64", "bfloat16"} <= set(onnx["Add"].dtypes)
    assert onnx["And"].dtypes == ("bool",)
    assert "aten.add.Tensor" in {operator.name for operator in supported_operators("torch")}
    with pytest.raises(maas_rt.InvalidArgumentError, match="tensorflow"):
        supported_operators("tensorflow")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--frontend", "onnx", "--json", "Resize"]) == 0
    (resize,) = json.loads(capsys.readouterr().out)["onnx"]
    assert resize["name"] == "Resize"
    assert main(["ops", "relu", "NoSuchThing"]) == 1
    out = capsys.readouterr().out
    assert "aten.relu.default" in out
    assert "no converter: NoSuchThing" in out


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(), "run: maas-rt ops --markdown > docs/operators.md"


def test_the_page_names_what_is_not_converted() -> None:
    (line,) = [each for each in PAGE.read_text().splitlines() if each.startswith("AttnLSTM, ")]
    named = line.removesuffix(".").split(", ")
    assert {"BeamSearch", "SparseAttention", "WordConvEmbedding"} <= set(named)
    assert not {f"com.microsoft::{name}" for name in named} & {each.name for each in supported_operators("onnx")}

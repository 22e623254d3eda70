"""What the pages show is run: each C program is compiled and run, each Python block executed, each command carried out.

A block that cannot be run stands behind a comment `<!-- not run: why -->`. Blocks of one page share a folder, and its Python blocks
a namespace, as a reader would who types them one after the other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from maas_rt import compiler

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/c_api.md", "docs/from_onnxruntime.md", "docs/requirements.md")
BLOCK = re.compile(
    r"(?P<note><!-- not run: [^>]+ -->\n\n?)?```(?P<kind>[a-z]*) ?(?P<name>\S*)\n(?P<text>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    kind: str
    name: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are to run."""
    found = BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [Block(each["kind"], each["name"], each["text"]) for each in found if not each["note"]]


class Scores(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).softmax(-1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: a small classifier, 64 numbers in, 10 scores out."""
    folder = tmp_path_factory.mktemp("docs")
    r = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["s"]), helper.make_node("Softmax", ["s"], ["y"])],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [
            numpy_helper.from_array(r.standard_normal((64, 10), np.float32), "w"),
            numpy_helper.from_array(r.standard_normal(10, np.float32), "b"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(proto, folder / "model.onnx")
    compiler.compile(proto).save(folder / "model.mrt")
    return folder


def test_every_page_has_blocks_that_run() -> None:
    for page in PAGES:
        assert blocks(page), page


def run(*command: Any, folder: Path, **environment: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    done = subprocess.run([str(each) for each in command], cwd=folder, env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler on the path")
def test_c_programs(model: Path) -> None:
    package = ROOT / "maas_rt"
    said = {}
    for block in blocks("docs/c_api.md"):
        if block.kind != "c":
            continue
        (model / block.name).write_text(block.text)
        program = model / block.name.removesuffix(".c")
        run("cc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-missing-field-initializers",
            "-I", ROOT / "csrc" / "include", block.name, "-o", program, "-L", package, "-lmaas_rt", "-pthread", folder=model)  # fmt: skip
        said[block.name] = run(program, "model.mrt", folder=model, LD_LIBRARY_PATH=str(package))
    assert len(said) == 3
    assert np.array(said["first.c"].split(), float).sum() == pytest.approx(1, abs=1e-4)
    assert said["deadline.c"] == "MRT_ERROR_DEADLINE\n"


def test_python_blocks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    given = {"x": np.zeros((1, 64), np.float32), "example": torch.zeros(1, 64), "module": Scores()}
    for page in PAGES:
        names: dict[str, Any] = dict(given)
        for block in blocks(page):
            if block.kind == "python":
                exec(compile(block.text, page, "exec"), names)
        if page == "docs/from_onnxruntime.md":
            assert names["scores"].shape == (1, 10)


def test_commands(model: Path) -> None:
    """Each `maas-rt` line, as it stands."""
    for page in PAGES:
        for block in blocks(page):
            for line in block.text.splitlines() if block.kind == "sh" else ():
                if line.startswith("maas-rt "):
                    run("bash", "-ec", line, folder=model)

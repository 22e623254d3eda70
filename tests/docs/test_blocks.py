"""What the pages show is run: each C program is compiled and run, each Python block executed, each command carried out.

A block that cannot be run stands behind a comment `<!-- not run: why -->`. Blocks of one page share a folder, and its Python blocks
a namespace, as a reader would who types them one after the other.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.distributed.checkpoint as dcp
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

import maas_rt
from maas_rt import compiler
from maas_rt._cli import main as cli
from tests import _tiny
from tests.service._serving import serving_beside

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?P<note><!-- not run: [^>]+ -->\n\n?)?```(?P<kind>[a-z]*) ?(?P<name>\S*)\n(?P<text>.*?)```", re.DOTALL
)


PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


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
    (folder / "counter.mrt").write_bytes(_tiny.accumulator())
    return folder


PACKAGE = """
import torch

class Image(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = torch.nn.Conv2d(3, 4, 16, stride=16), torch.nn.Linear(4, 10)

    def forward(self, x):
        return self.out(self.conv(x).relu().mean((2, 3)))

class Text(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = torch.nn.Embedding(100, 8), torch.nn.Linear(8, 2)

    def forward(self, ids):
        return self.out(self.words(ids).mean(1))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models that README's commands compile, each made by the tool that it is said to come from."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "package").mkdir()
    for name, built in (("module", "Image"), ("text", "Text")):
        (folder / "package" / f"{name}.py").write_text(f"{PACKAGE}\nbuild = {built}\n")
    classes: dict[str, Any] = {}
    exec(PACKAGE, classes)
    image, text = classes["Image"]().eval(), classes["Text"]().eval()
    example = torch.rand(2, 3, 32, 32)
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=32)}}
    torch.export.save(torch.export.export(image, (example,), dynamic_shapes=batch), folder / "model.pt2")
    dcp.save(image.state_dict(), checkpoint_id=folder / "checkpoint")
    (folder / "run" / "checkpoint-500").mkdir(parents=True)
    save_file(text.state_dict(), folder / "run" / "checkpoint-500" / "model.safetensors")
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 10), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["y"])],
        "scores",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "model.onnx"
    )
    np.savez(folder / "calib.npz", input=np.random.default_rng(1).standard_normal((20, 64), np.float32))
    return folder


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
    assert len(said) == 4
    assert np.array(said["first.c"].split(), float).sum() == pytest.approx(1, abs=1e-4)
    assert said["deadline.c"] == "MRT_ERROR_DEADLINE\n"


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks(model: Path, tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(model, tmp_path / "page")
    monkeypatch.chdir(folder)
    one = np.ones((1, 4), np.float32)
    names: dict[str, Any] = {
        "x": np.zeros((1, 64), np.float32),
        "one": one,
        "example": torch.zeros(1, 64),
        "module": Scores(),
    }
    with served(folder) if page == "docs/client.md" else nullcontext() as port:
        names["url"] = f"http://127.0.0.1:{port}"
        for block in blocks(page):
            if block.kind == "python":
                exec(compile(block.text, page, "exec"), names)
    if page == "docs/client.md":
        assert names["best"][0].value == pytest.approx(names["scores"].max().item()) and names["y"][0, 0] == 13
    if page == "docs/from_onnxruntime.md":
        assert names["scores"].shape == (1, 10)
    if page == "docs/python_api.md":
        np.testing.assert_array_equal(names["backup"]["sum"], (10 + one) * 2)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The port of a server with the models that the pages speak of."""
    for name, file in (("digits", "model.mrt"), ("counter", "counter.mrt")):
        (folder / "models" / name / "1").mkdir(parents=True)
        shutil.copy(folder / file, folder / "models" / name / "1" / "model.mrt")
    with serving_beside(folder / "models") as server:
        yield server.port


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on the path")
def test_curl_lines(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "page")
    np.zeros((1, 64), np.float32).tofile(folder / "x.bin")
    lines = [
        line for block in blocks("docs/service.md") for line in block.text.splitlines() if line.startswith("curl ")
    ]
    with served(folder) as port:
        for line in lines:
            line = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("curl", "curl -sS --fail", 1)
            run("bash", "-c", line, folder=folder)
    assert len(lines) == 6 and len((folder / "y.bin").read_bytes()) > 40


@pytest.mark.parametrize("page", PAGES)
def test_commands(
    sources: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each `maas-rt` line, as it stands."""
    monkeypatch.chdir(sources)
    monkeypatch.syspath_prepend(str(sources))
    for block in blocks(page):
        for line in block.text.splitlines() if block.kind == "sh" else ():
            if line.startswith("maas-rt "):
                (sources / "model.mrt").unlink(missing_ok=True)
                assert cli(shlex.split(line, comments=True)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
                assert maas_rt.load(sources / "model.mrt").inputs, line


TEXT_PAGES = [*PAGES, "CONTRIBUTING.md", "bench/README.md"]


def named(pattern: str) -> dict[str, str]:
    """What the pages name by this pattern, and where."""
    return {
        name: page for page in TEXT_PAGES for name in re.findall(pattern, (ROOT / page).read_text(encoding="utf-8"))
    }


def test_commands_that_are_named_are_there() -> None:
    """`make X`, `python -m X` and `maas-rt X` in running text."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target, page in named(r"`make ([\w-]+)").items():
        assert target in targets, f"{page} names `make {target}`"
    for module, page in named(r"`python -m ((?:bench|tests)[\w.]*)").items():
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file() or (
            ROOT / module.replace(".", "/") / "__main__.py"
        ).is_file(), f"{page} names `python -m {module}`"
    for command, page in named(r"`maas-rt (\w+)").items():
        with pytest.raises(SystemExit) as ended:
            cli([command, "--help"])
        assert ended.value.code == 0, f"{page} names `maas-rt {command}`"


def test_code_that_contributing_shows_stands_in_the_tree() -> None:
    tree = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "compiler" / "importers").rglob("*.py"))
    shown = [
        each["text"]
        for each in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
        if each["kind"] == "python"
    ]
    assert len(shown) == 2
    for text in shown:
        assert textwrap.dedent(text).strip() in tree

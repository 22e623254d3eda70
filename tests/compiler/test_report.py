"""The report of a compressed model: in it is what was measured, and a browser, keyboard and screen reader can use it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler.report import report_page, write_report
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from maas_rt._cli import main

HOSTILE = "</script><img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def trial(layers: dict[str, int], score: float, latency: float, **more: Any) -> dict[str, Any]:
    return {
        "layers": layers, "score": score, "latency": latency, "cpu": latency, "bytes": int(1e9 * latency), "error": 0.0, "failure": "",
        "on_front": False, "chosen": False, **more,
    }  # fmt: skip


def measured() -> dict[str, Any]:
    both = {"float": 0.002, "compressed": 0.001, "ratio": 2.0}
    return {
        "version": 1, "budget": {"max_drop": 0.01, "relative": False, "max_latency": 0.005, "max_size": None, "objective": "latency"},
        "score": {"float": 0.91, "compressed": 0.905, "noise": 0.0}, "judged": {"float": 0.9, "compressed": 0.89},
        "bytes": {"float": 2_000_000, "compressed": 500_000, "ratio": 4.0}, "latency": both, "cpu": both, "error": 1e-4, "trials": 3,
        "methods": {"int8": 2}, "notes": [f"a note with {HOSTILE}"],
        "tried": [
            trial({}, 0.91, 0.002, on_front=True), trial({"int8": 2}, 0.905, 0.001, on_front=True, chosen=True),
            trial({"int4": 2}, 0.0, 0.0, failure=f"it failed: {HOSTILE}"),
        ],
        "per_layer": [
            {"name": HOSTILE, "kind": "product", "method": "int8", "reason": "", "weights": 1000, "error": None, "float_seconds": 1e-4, "seconds": 5e-5},
            {"name": "second", "kind": "LSTM", "method": "float", "reason": "there is no kernel", "weights": 10, "error": 0.0, "float_seconds": None, "seconds": None},
        ],
        "worst_inputs": [{"sample": 3, "output": HOSTILE, "signal_to_error_db": 21.5, "argmax_changed": True}],
    }  # fmt: skip


class Page(html.parser.HTMLParser):
    """The page's elements that could run or load something, its texts, and its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._last = ""
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._last = tag

    def handle_data(self, data: str) -> None:
        if self._last == "script" and not self.data:
            self.data = data
        self.texts.append(data)


def test_the_page_holds_what_was_measured_and_loads_nothing() -> None:
    page = Page(report_page(measured(), name=HOSTILE, price=0.36))
    assert json.loads(page.data) == measured()
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}]
    assert not any(tag in ("img", "link", "iframe", "object") for tag, _ in page.tags)
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in page.tags for name in attrs)
    text = "".join(page.texts)
    for shown in ("0.905", "500.0 KB", "4", "there is no kernel", "it failed", "21.5", "0.2", "0.1"):
        assert shown in text  # 0.2 and 0.1: the cost of a million runs of 2 and 1 ms at 0.36 an hour
    circles = [attrs for tag, attrs in page.tags if tag == "circle"]
    assert len(circles) == 2 and [c["class"] for c in circles] == ["on-front", "chosen"]
    assert float(str(circles[1]["cx"])) < float(str(circles[0]["cx"])) and float(str(circles[1]["cy"])) > float(
        str(circles[0]["cy"])
    )


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_keyboard_and_screen_reader_can_use_it(tmp_path: Path, scheme: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="carries axe-core: pip install axe-playwright-python"
    )
    write_report(measured(), tmp_path / "r.html", name="net")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
        page.goto((tmp_path / "r.html").as_uri())
        found = axe.Axe().run(page).response["violations"]
        assert not found, [each["id"] for each in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= 400  # tables scroll within themselves
        for _ in range(3):
            page.keyboard.press("Tab")
        assert "score 0.905" in str(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        browser.close()


EVAL = """
import numpy as np
X = np.load("{x}")
WANT = np.load("{y}")
def score(run):
    got = np.concatenate([run({{"x": X[i : i + 1]}})["y"] for i in range(len(X))])
    return 1 - float(np.linalg.norm(got - WANT) / np.linalg.norm(WANT))
def broken(run):
    raise KeyError("labels")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, calibration data, and functions that score."""
    folder = tmp_path_factory.mktemp("compress")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((128, 128), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 128])],
        [numpy_helper.from_array(w, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    x = rng.standard_normal((8, 128), np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x @ w)
    np.savez(folder / "calib.npz", x=rng.standard_normal((16, 128), np.float32))
    (folder / "score.py").write_text(EVAL.format(x=folder / "x.npy", y=folder / "y.npy"))
    return folder


def compress(files: Path, *more: str) -> int:
    command = [
        "compress",
        str(files / "m.onnx"),
        "--data",
        str(files / "calib.npz"),
        "-o",
        str(files / "out.mrt"),
        "--quiet",
    ]
    return main([*command, "--sparsity", "none", "--precision", "int8", "--objective", "size", *more])


def test_the_command_writes_model_and_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress(files, "--eval", f"{files}/score.py:score", "--max-drop", "0.1") == 0
    told = capsys.readouterr()
    assert "layers: 1 int8; 3 models tried; report:" in told.out
    assert "give judge other data" in told.err
    assert maas_rt.load(files / "out.mrt").manifest["compression"]["methods"] == {"int8": 1}
    assert json.loads(Page((files / "out.mrt.html").read_text()).data)["methods"] == {"int8": 1}
    assert not (files / "out.mrt.search").exists()
    assert compress(files, "--eval", f"{files}/score.py:score") == 1
    assert "out.mrt exists: give --overwrite" in capsys.readouterr().err
    assert main(["inspect", str(files / "out.mrt")]) == 0
    assert "compressed  score" in capsys.readouterr().out


def test_what_was_measured_stays_until_the_file_is_written(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk at the last moment does not cost the search; the same command writes what it found, without another trial."""
    more = ("--eval", f"{files}/score.py:score", "--max-drop", "0.1", "--overwrite")
    (files / "out.mrt").unlink(missing_ok=True)
    blocked = files / "out.mrt.html"
    blocked.unlink(missing_ok=True)
    blocked.mkdir()  # where the report cannot be written
    assert compress(files, *more) == 1
    journal = files / "out.mrt.search"
    measured = journal.read_text()
    blocked.rmdir()
    assert compress(files, *more) == 0 and not journal.exists()
    assert '"score"' in measured and capsys.readouterr().out.count("3 models tried") == 1


@pytest.mark.parametrize(
    ("eval_", "says"),
    [
        ("score.py", "expected a file and a function in it, as eval.py:score"),
        ("none.py:score", "none.py is no file that exists"),
        ("score.py:nothing", "has no function nothing"),
        ("calib.npz:score", "calib.npz is no Python file"),
        ("score.py:broken", "evaluate failed on the float model \\(KeyError: 'labels'\\)"),
    ],
)
def test_what_cannot_score_is_told(files: Path, capsys: pytest.CaptureFixture[str], eval_: str, says: str) -> None:
    assert compress(files, "--eval", str(files / eval_), "--overwrite") == 1
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert re.search(says, captured), captured

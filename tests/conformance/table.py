"""The table of all suites, from the recorded results.

python -m tests.conformance table             prints it
python -m tests.conformance table --update    writes it into README.md, where a test holds it equal
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
README = ROOT / "README.md"
HEAD = "| suite | compiles and agrees | refused by name | wrong | crash |\n|---|---|---|---|---|\n"
ONNX = {
    "node, opset <= 27": "ONNX node cases, opset ≤ 27",
    "simple": "ONNX simple",
    "pytorch-operator": "ONNX pytorch-operator",
    "pytorch-converted": "ONNX pytorch-converted",
    "node, opset 28": "ONNX node cases, opset 28 (not released)",
    "node, other domains": "ONNX node cases of other domains",
}
TINY = "transformers, tiny configurations"
CONTRIB = {
    "nodes": "ONNX Runtime's own operators (com.microsoft), one by one",
    "models": "what ONNX Runtime's optimizers and quantizers make of 12 families of models",
}
VISION = {"torchvision": "torchvision, random weights", "timm": "timm, one small model of each family"}
MODES = {"fixed": "fixed shapes", "dynamic": "dynamic batch, and sequence where it has one"}


def _row(label: str, counts: dict[str, int]) -> str:
    total = sum(counts[key] for key in ("pass", "refused", "wrong", "crash"))
    return (
        f"| {label} ({total:,}) | {counts['pass']:,} | {counts['refused']:,} | {counts['wrong']} | {counts['crash']} |"
    )


def _count(outcomes: list[str]) -> dict[str, int]:
    return {key: outcomes.count(key) for key in ("pass", "refused", "wrong", "crash")}


def _read(suite: str) -> dict[str, Any]:
    path = RESULTS / f"{suite}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def table() -> str:
    rows = [_row(label, _read("onnx")["table"][kind]) for kind, label in ONNX.items()]
    rows.append(_row("torch export database", _count([c["result"] for c in _read("torch_export")["cases"]])))
    counted = "torch OpInfo, float32, operators that torch.export accepts and whose result is not random"
    rows.append(_row(counted, _read("torch_opinfo")["counts"]))
    for mode, text in MODES.items():
        rows.append(_row(f"{TINY}, {text}", _count([c[mode] for c in _read("transformers")["cases"]])))
    recorded = _read("contrib")
    rows += [_row(label, recorded[part]["counts"]) for part, label in CONTRIB.items() if part in recorded]
    left = _read("checkpoints")
    if left:
        rows.append(
            _row("what training leaves, written by its tools, one to four processes: read bit for bit", left["counts"])
        )
    for suite, label in VISION.items():
        found = _read(suite)
        for mode, text in MODES.items():
            listed = len(found["models"]) + len(found["not_run"])
            run = f"{len(found['models'])} of {listed} run" if found["not_run"] else f"all {listed}"
            rows.append(_row(f"{label}, {text}, {run}", found["counts"][mode]))
    return HEAD + "\n".join(rows) + "\n"


def in_readme() -> str:
    text = README.read_text()
    start = text.index(HEAD)
    return text[start : text.index("\n\n", start) + 1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance table", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write it into README.md")
    options = parser.parse_args(arguments)
    print(table(), end="")
    if options.update:
        README.write_text(README.read_text().replace(in_readme(), table()))
    return 0

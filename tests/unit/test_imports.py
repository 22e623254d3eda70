"""Which Python module imports which: no circle, and only along the arrows that docs/compiler.md draws."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"maas_rt": "maas_rt", "compiler": "maas_rt.compiler"}  # folder -> what it is imported as


def modules() -> dict[str, Path]:
    """Every module's file, by the name that it is imported as."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    return {each for each in named(name) if each in MODULES} - {name}


@cache
def named(name: str) -> set[str]:
    """All modules that a module imports: at its top, inside of functions, or for its types alone."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES or inner == "maas_rt._native" else base)
    return found


def drawn() -> tuple[dict[str, str], dict[str, set[str]]]:
    """The table of docs/compiler.md: part of each file or folder, and the parts that each part imports."""
    text = (ROOT / "docs" / "compiler.md").read_text(encoding="utf-8").partition("## Who imports whom\n")[2]
    rows = re.findall(r"^\| ([\w/ ]+) \| (`.*`) \| (.*) \|$", text.partition("\n## ")[0], re.MULTILINE)
    holds = {place: part for part, places, _ in rows for place in re.findall(r"`([^`]+)`", places)}
    return holds, {part: set(filter(None, parts.split(", "))) for part, _, parts in rows}


HOLDS, ARROWS = drawn()


def part_of(name: str) -> str:
    """The part that names the module's file, or else its folder."""
    place = MODULES[name].relative_to(ROOT)
    return HOLDS[str(place) if str(place) in HOLDS else f"{place.parent}/"]


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: imported(name) for name in MODULES}).prepare()  # CycleError names the modules of one


def test_imports_are_seen_wherever_they_stand() -> None:
    assert imported("maas_rt") >= {"maas_rt._errors", "maas_rt._model"}  # at its top, for types
    assert imported("maas_rt.compiler") >= {"maas_rt.compiler._pipeline"}  # inside of a function


def test_the_runtime_imports_no_framework() -> None:
    """Not inside of a function either, nor for its types: what it is given by torch it takes as it comes."""
    runtime = [name for name, path in MODULES.items() if path.is_relative_to(ROOT / "maas_rt")]
    frameworks = {"onnx", "torch", "tvm", "tvm_ffi"}
    found = {name: {each for each in named(name) if each.partition(".")[0] in frameworks} for name in runtime}
    assert not {name: each for name, each in found.items() if each}
    assert any("torch" in named(name) for name in MODULES)  # the compiler's do: they are seen


def test_the_arrows_lead_upwards() -> None:
    rows = list(ARROWS)
    for number, part in enumerate(rows):
        assert ARROWS[part] <= set(rows[:number]), part


def test_imports_follow_the_arrows() -> None:
    found: dict[str, set[str]] = {part: set() for part in ARROWS}
    for name in MODULES:
        for other in imported(name):
            if part_of(other) != part_of(name):
                assert part_of(other) in ARROWS[part_of(name)], f"{name} imports {other}"
                found[part_of(name)].add(part_of(other))
    assert found == ARROWS  # and no arrow is drawn that is none

"""Which folder of the library includes which: no circle, and only downwards."""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
# A folder may include itself and what stands below it. docs/kernels.md and DESIGN draw the same.
BELOW = {
    "base": set(),
    "json": set(),  # the service's tensors: of the Python module, not of the library
    "simd": set(),
    "artifact": {"base"},
    "kernels": {"base", "simd"},
    "runtime": {"base", "artifact", "kernels"},
    "capi": {"base", "artifact", "kernels", "runtime"},
}


def includes(folder: str) -> set[str]:
    """The folders that a folder's files include, and itself left out."""
    found: set[str] = set()
    for path in (CSRC / folder).rglob("*"):
        if path.suffix in (".cc", ".h", ".inc"):
            found |= set(re.findall(r'^#include "(\w+)/', path.read_text(encoding="utf-8"), re.MULTILINE))
    return found - {folder}


def test_folders_include_only_what_is_below_them() -> None:
    for folder, below in BELOW.items():
        assert includes(folder) <= below, folder


def test_there_is_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(BELOW):
        ready = [folder for folder, below in BELOW.items() if folder not in order and below <= set(order)]
        assert ready
        order += ready


def test_every_folder_of_sources_is_listed() -> None:
    folders = {path.parent.relative_to(CSRC).parts[0] for path in CSRC.rglob("*.cc") if path.parent != CSRC}
    assert folders - set(BELOW) == {"python", "tests"}

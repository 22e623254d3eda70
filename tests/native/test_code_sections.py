"""Code sections that are not what they say, or not for this CPU: refused in one sentence before anything of them is mapped as code."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import maas_rt
from maas_rt import _container, _kernels

KEPT = Path(__file__).parents[1] / "data" / "formats" / "1" / "levels.mrt"  # has code for x86-64-v3, -v2 and x86-64
CODE = _container.SectionKind.CODE

pytestmark = pytest.mark.skipif(
    not _kernels.cpu_level().startswith("x86-64"), reason="the kept file has code for x86-64: runs on such a CPU"
)


def with_code(change: Callable[[str, bytes], tuple[str, bytes]]) -> bytes:
    """The kept file with each code section's (target, image) as `change` makes it."""
    kept = _container.read(KEPT)
    sections = []
    for each in kept.sections:
        target, image = each.target, bytes(kept.section(each.kind, each.target))
        if each.kind == CODE:
            target, image = change(target, image)
        sections.append(_container.Section(each.kind, image, target))
    return b"".join(_container.write(sections))


def refused(data: bytes) -> str:
    with pytest.raises(maas_rt.Error) as caught:
        maas_rt.load(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_as_it_is_runs() -> None:
    with np.load(KEPT.with_suffix(".npz")) as kept:
        x, classes = kept["0/x"], kept["0/classes"]
    np.testing.assert_allclose(
        maas_rt.load(with_code(lambda *section: section)).run({"x": x})["classes"], classes, 1e-4
    )


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (18, struct.pack("<H", 183)),  # AArch64
        (18, struct.pack("<H", 243)),  # RISC-V
        (4, b"\x01"),  # 32 bits
        (5, b"\x02"),  # big-endian
        (16, struct.pack("<H", 2)),  # a program
        (0, b"#!"),
    ],
)
def test_an_image_that_is_another(at: int, value: bytes) -> None:
    said = refused(with_code(lambda target, image: (target, image[:at] + value + image[at + len(value) :])))
    wanted = (
        f"the code section for {_kernels.cpu_level()} of '(memory)' is no 64-bit ELF shared object for this machine"
    )
    assert said == wanted


def test_an_image_that_ends_early() -> None:
    assert "is no 64-bit ELF shared object" in refused(with_code(lambda target, image: (target, image[:40])))


def test_code_for_another_machine_alone() -> None:
    names = iter(("aarch64-i8mm", "aarch64-dotprod", "aarch64"))
    said = refused(with_code(lambda target, image: (next(names), image)))
    here = _kernels.cpu_level()
    assert "was compiled for aarch64-i8mm, aarch64-dotprod, aarch64, this CPU is" in said
    assert f"this CPU is {here}; compile it with --target {here}" in said


def test_code_for_another_machine_beside_ones_own_is_not_looked_at() -> None:
    last = {"x86-64": "aarch64"}
    data = with_code(lambda target, image: (last.get(target, target), b"\x7fELF" if target in last else image))
    assert maas_rt.load(data).manifest["name"]

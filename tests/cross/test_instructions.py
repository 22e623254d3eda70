"""bench.instructions: counts are the same each time, and products take as many instructions as they may. `make test-cross`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import _aarch64, instructions
from tests.cross._tools import FULL

WHY = _aarch64.missing() if FULL else "fetches Debian's arm64 Python, and counts for minutes: make test-cross"
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))


@pytest.fixture(scope="module")
def counts() -> dict[str, instructions.Counts]:
    rows = [row for row in instructions.ROWS_OF_TABLE if row.name.startswith("gemm")]
    return {row.name: instructions.count_row(row, _aarch64.DEFAULT_CPU) for row in rows}


def test_two_processes_count_the_same(counts: dict[str, instructions.Counts]) -> None:
    for row in counts.values():
        assert not row.failed
        assert list(row.unequal.values()) == [0]


def test_products_take_few_instructions(counts: dict[str, instructions.Counts]) -> None:
    dense = counts["gemm_f32"].calls["gemm_f32"]
    products = instructions.ROWS * instructions.COLUMNS * instructions.DEPTH / instructions.LANES
    assert dense / products <= 1.5
    assert counts["gemm_u8s8"].calls["gemm_u8s8"] / dense <= 0.4  # by sdot, which the default CPU has


def test_what_fails_is_a_recorded_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "WORK", tmp_path)
    monkeypatch.setitem(instructions.PRODUCTS, "absent", lambda: None)  # which the emulated process does not have
    failed = instructions.count_row(instructions.Row("absent", "none"), _aarch64.DEFAULT_CPU).failed
    assert "ended with status 1" in failed["absent"]

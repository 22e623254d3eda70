"""What the compiler reads off the library's contracts, and what it says where the two disagree."""

from __future__ import annotations

import pytest
from maas_rt.compiler._contracts import CONTRACTS, contract_of
from maas_rt.compiler.spec._contracts import SHAPES

from maas_rt._errors import CompileError


def test_shapes_are_of_contracts_that_the_library_has() -> None:
    assert set(SHAPES) <= set(CONTRACTS)


def test_what_passes_and_the_plan_read() -> None:
    places = {name: (c.bias, c.residual) for name, c in CONTRACTS.items() if c.has_epilogue}
    assert places["gemm_f32"] == (2, 3) and places["gemm_f32q"] == (4, 5) and places["matmul_f32"] == (2, None)
    assert places["conv_transpose2d_f32"] == (2, None) and places["conv2d_u8s8"] == (3, 4)
    assert {c.packed for c in CONTRACTS.values()} == {(), (1,), (1, 2)}
    assert CONTRACTS["lstm_u8s8"].packed == CONTRACTS["gru_f32"].packed == (1, 2)
    assert all(bool(c.packed) == bool(c.packings) for c in CONTRACTS.values())


def test_a_contract_that_the_library_lacks_is_said() -> None:
    with pytest.raises(CompileError, match="'gemm_f12', which the installed library does not have.*one version"):
        contract_of("gemm_f12")


@pytest.mark.parametrize(
    ("given", "outputs", "attrs", "packing", "message"),
    [
        ([True], 1, ["n", "k"], "gemm_f32_nr16_v1", "has 1 inputs, of 2 to 4, and no w"),
        ([True, False, True], 1, ["n"], "gemm_f32_nr16_v1", "has 3 inputs, of 2 to 4, and no w"),
        ([True] * 5, 1, ["n"], "gemm_f32_nr16_v1", "has 5 inputs, of 2 to 4"),
        ([True, True], 2, ["n"], "gemm_f32_nr16_v1", "has 2 outputs, of 1 to 1"),
        ([True, True], 1, ["n", "sparsity", "depth"], "gemm_f32_nr16_v1", "has no attribute depth, sparsity"),
        ([True, True], 1, ["n"], "", "names the packing '', expected 'gemm_f32_nr16_v1'"),
        ([True, True, False, True], 1, ["n", "k", "w_trans", "act"], "gemm_f32_nr16_v1", ""),
    ],
)
def test_a_call_is_held_to_its_contract(
    given: list[bool], outputs: int, attrs: list[str], packing: str, message: str
) -> None:
    assert contract_of("gemm_f32").refusal(given, outputs, attrs, packing) == message

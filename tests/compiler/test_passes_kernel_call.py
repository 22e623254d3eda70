"""Kernel calls: what is written is read, through all that TVM does to a module."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from maas_rt.compiler.passes import kernel_outputs, make_kernel_call, read_kernel_call
from maas_rt.compiler.spec import SpecError, check_module
from tvm import relax
from tvm.relax import transform

from tests.compiler._lowering import build, const, kernels, operators, symbol


def _tensor(*shape: object) -> relax.TensorType:
    return relax.TensorType(list(shape), "float32")


def test_absent_inputs_and_attributes_come_back() -> None:
    x = relax.Var("x", _tensor(2, 3))
    attrs = {"epsilon": 1e-5, "act": "clip", "act_args": [0.0, 6.0], "pads": [1, 2], "flag": True}
    call = read_kernel_call(
        make_kernel_call("any_f32", [x, None, x, None], x.ty, attrs, packing="p_v1", name='a/b "c"')
    )
    assert call is not None
    assert (call.contract, call.packing, call.name) == ("any_f32", "p_v1", 'a/b "c"')
    assert len(call.args) == 3 and call.args[1] is None and call.args[2].same_as(x)
    assert call.attrs == {"epsilon": [1e-5], "act": "clip", "act_args": [0.0, 6.0], "pads": [1, 2], "flag": [1]}


def test_other_expressions_are_no_kernel_calls() -> None:
    x = relax.Var("x", _tensor(2, 3))
    assert read_kernel_call(relax.op.add(x, x)) is None
    assert read_kernel_call(relax.op.call_dps_packed("other.f", relax.Tuple([x]), x.ty)) is None
    assert read_kernel_call(x) is None


def test_two_outputs_survive_tvms_passes_with_a_symbolic_batch() -> None:
    n = symbol("n")
    both = [_tensor(n, 8), _tensor(n, 8)]

    def body(emit, x):  # type: ignore[no-untyped-def]
        doubled = emit(relax.op.add(x, x))
        pair = emit(make_kernel_call("layer_norm_f32", [doubled, None, None, x], both, {"epsilon": 1e-5}))
        return relax.op.multiply(relax.op.exp(emit(pair[0])), emit(pair[1]))

    mod = build(body, (n, 8))
    with tvm.target.Target("llvm"):
        for stage in (
            transform.Normalize(),
            transform.CanonicalizeBindings(),
            transform.ConvertToDataflow(),
            transform.EliminateCommonSubexpr(),
            transform.LegalizeOps(),
            transform.AnnotateTIROpPattern(),
            transform.FoldConstant(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(["main"]),
        ):
            mod = stage(mod)
    relax.analysis.well_formed(mod)
    (call,) = kernels(mod)
    assert call.contract == "layer_norm_f32" and call.args[1] is None and call.args[2] is None
    values = [b.value for block in mod["main"].body.blocks for b in block.bindings if read_kernel_call(b.value)]
    assert [len(kernel_outputs(value)) for value in values] == [2]
    assert operators(mod)["generated"] == 2


@pytest.mark.parametrize(
    ("contract", "attrs", "packing", "message"),
    [
        ("gemm_f33", {}, "", "no kernel contract"),
        ("gemm_f32", {"n": 5, "k": 3}, "", "packing"),
        ("gemm_f32", {"n": 5, "k": 3, "alpha": 2.0}, "gemm_f32_nr16_v1", "attribute alpha"),
        ("gemm_f32", {"n": 4, "k": 3}, "gemm_f32_nr16_v1", "weight"),
        ("layer_norm_f32", {"epsilon": 1e-5}, "", "vector of the wrong length"),
    ],
)
def test_the_specification_refuses_wrong_calls(
    contract: str, attrs: dict[str, float], packing: str, message: str
) -> None:
    n = symbol("n")
    mod = build(
        lambda emit, x: make_kernel_call(contract, [x, const(3, 5)], _tensor(n, 5), attrs, packing=packing), (n, 3)
    )
    with pytest.raises(SpecError, match=message):
        check_module(mod, "fuse")


def test_the_specification_refuses_unlowered_operators_and_wrong_shapes() -> None:
    with pytest.raises(SpecError, match="neither lowered"):
        check_module(build(lambda emit, x: relax.op.exp(x), (2, 3)), "fuse")
    wrong = build(lambda emit, x: make_kernel_call("softmax_f32", [x], _tensor(3, 2)), (2, 3))
    with pytest.raises(SpecError, match="softmax_f32 gives"):
        check_module(wrong, "fuse")
    ints = build(lambda emit, x: make_kernel_call("softmax_f32", [x], _tensor(2, 3)), ((2, 3), "int32"))
    with pytest.raises(SpecError, match="takes float32"):
        check_module(ints, "fuse")


def test_reading_does_not_depend_on_numpy_types() -> None:
    x = relax.Var("x", _tensor(2, 3))
    call = read_kernel_call(make_kernel_call("any_f32", [x], x.ty, {"n": np.prod([2, 3]), "scale": np.float32(0.5)}))
    assert call is not None and call.attrs == {"n": [6], "scale": [0.5]}

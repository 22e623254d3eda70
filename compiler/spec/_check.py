"""The invariants, stage by stage: well formed, kernels known and well typed, nothing left over after "fuse"."""

from __future__ import annotations

import tvm
from tvm import relax

from .._contracts import CONTRACTS
from ..ir import check, decode, read_encoded, read_operator, read_widened, round_to_bytes, widen
from ..ir._loops import read_loop_mark
from ..passes import FOLDING, lowering_passes
from ..passes._dims import same_shape, shape_of
from ..passes._kernel_call import PREFIX, KernelCall, kernel_outputs, read_kernel_call
from ..passes._ops import dtype_of
from ..passes.legalize import KEPT_OPERATORS
from ._contracts import ShapeError, output_shapes

__all__ = ["SpecError", "check_module"]

LAST = "fuse"  # behind it there are only kernel calls, generated functions, views, and control flow
ABSTRACT = frozenset({"imported", *(name for name, _ in FOLDING)})  # operators of ir/, and no kernel calls yet
_STAGES = ["imported", *(name for name, _ in lowering_passes())]
ENCODED = frozenset(
    _STAGES[: _STAGES.index("lower weights")]
)  # weights of few bits are `decode` or `widen` of constants, and products may read rounded activations
_LEFT = ("relax.call_tir", "relax.call_dps_packed", *KEPT_OPERATORS)


class SpecError(AssertionError):
    """A pass broke the IR: the stage, the binding, and what is wrong with it."""


def check_module(mod: tvm.IRModule, stage: str) -> None:
    """Hold `mod` to what it must satisfy behind `stage` (a name in `lowering_passes`, or "imported").

    Raises SpecError with one sentence.
    """
    try:
        relax.analysis.well_formed(mod)
    except Exception as error:
        raise SpecError(f"after {stage}: the module is not well formed: {error}") from error
    functions = {str(gvar.name_hint): func for gvar, func in mod.functions_items() if isinstance(func, relax.Function)}
    if "main" not in functions:
        raise SpecError(f"after {stage}: there is no function main, only {sorted(functions)}")
    if stage != "imported" and len(functions) != 1:
        raise SpecError(f"after {stage}: main is not the only Relax function: {sorted(functions)}")
    main = functions["main"]
    if not isinstance(main.ret_ty, tvm.ir.TupleType):
        raise SpecError(f"after {stage}: main returns no tuple")
    for name, func in functions.items():
        _sequence(func.body, f"after {stage}: in {name}", stage)


def _sequence(seq: relax.Expr, where: str, stage: str) -> None:
    if not isinstance(seq, relax.SeqExpr):
        return
    for block in seq.blocks:
        for binding in block.bindings:
            place, value = f"{where}, {binding.var.name}", binding.value
            if isinstance(value, relax.If):
                _sequence(value.true_branch, f"{place} (true)", stage)
                _sequence(value.false_branch, f"{place} (false)", stage)
            elif isinstance(value, relax.Call):
                _call(value, place, stage)


def _call(value: relax.Call, place: str, stage: str) -> None:
    call = read_kernel_call(value)
    if call is not None:
        if stage in ABSTRACT:
            raise SpecError(f"{place}: calls the kernel {call.contract} before operators are lowered to kernels")
        _kernel(call, value, place)
        return
    operation = read_operator(value)
    if operation is not None and operation.operator is check:
        return
    if operation is not None and operation.operator in (decode, round_to_bytes, widen) and stage in ENCODED:
        known = read_widened(value) if operation.operator is widen else read_encoded(value)
        if operation.operator is not round_to_bytes and known is None:
            raise SpecError(f"{place}: decodes what is no constant")
        return
    if operation is not None and stage not in ABSTRACT:
        raise SpecError(f"{place}: the operator {value.op.name} was not lowered to a kernel")
    if read_loop_mark(value) is not None:
        return
    if isinstance(value.args[0] if value.args else None, relax.ExternFunc):
        symbol = value.args[0].global_symbol
        raise SpecError(f"{place}: calls the packed function {symbol}, which is no kernel ({PREFIX}...)")
    if stage == LAST and not (isinstance(value.op, tvm.ir.Op) and str(value.op.name) in _LEFT):
        raise SpecError(f"{place}: {value.op} was neither lowered to a kernel nor to a generated function")


def _kernel(call: KernelCall, value: relax.Call, place: str) -> None:
    where = f"{place}: {call.contract}"
    contract = CONTRACTS.get(call.contract)
    if contract is None:
        raise SpecError(f"{where} is no kernel contract")
    given = [arg is not None for arg in call.args]
    refusal = contract.refusal(given, len(kernel_outputs(value)), call.attrs, call.packing)
    if refusal:
        raise SpecError(f"{where} {refusal}")
    for i, arg in enumerate(call.args):
        if arg is None:
            continue
        wanted = contract.input(i).dtypes
        if wanted and dtype_of(arg) not in wanted:
            raise SpecError(f"{where} takes {' or '.join(wanted)} as input {i}, not {dtype_of(arg)}")
    _outputs(call, value, where)


def _outputs(call: KernelCall, value: relax.Call, where: str) -> None:
    contract, outs = CONTRACTS[call.contract], kernel_outputs(value)
    for out, operand in zip(outs, contract.outputs, strict=False):
        dtypes = operand.dtypes if operand.like is None else (dtype_of(call.args[operand.like]),)
        if str(out.dtype) not in dtypes:
            raise SpecError(f"{where} gives {' or '.join(dtypes)}, and the IR says {out.dtype}")
    try:
        shapes = output_shapes(call.contract, call.args, call.attrs)
    except (ShapeError, ValueError, KeyError) as error:
        raise SpecError(f"{where}: {error}") from error
    for out, shape in zip(outs, shapes, strict=False):
        if shape is not None and not same_shape(shape_of(relax.Var("out", out)), shape):
            raise SpecError(f"{where} gives {shape}, and the IR says {out}")

"""What no kernel took becomes generated functions: TVM's own lowering and fusion, with views left as views."""

from __future__ import annotations

import tvm
from tvm import relax

from ..codegen import LEGALIZE
from .order_sizes import order_sizes

__all__ = ["KEPT_OPERATORS", "fence", "fuse", "legalize"]

# What plan/ reads itself: views (canonicalise spelled the others like this one), and sizes that the data decides.
KEPT_OPERATORS = [
    "relax.reshape", "relax.memory.view", "relax.shape_of", "relax.shape_to_tensor", "relax.tensor_to_shape", "maas.check",
]  # fmt: skip

# How many operators become one function. LLVM's time grows with the square of the parameters that they bring: 256 additions and products of
# vectors take 10.6 s as one function, 0.5 s for each different one of 32 (1.4 s of 64). The models of bench/ and of eight packages fuse 8 at most.
_MOST_FUSED = 32


def legalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Operators -> call_tir."""
    mod = relax.transform.ConvertToDataflow(1)(mod) if _has_plain_blocks(mod) else mod
    return order_sizes(relax.transform.LegalizeOps(LEGALIZE, skip_ops=KEPT_OPERATORS)(mod))


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """Neighbouring call_tir -> one; kernel calls and views are opaque to it."""
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    mod = fence(mod)
    with tvm.transform.PassContext(opt_level=3, config={"relax.FuseOps.max_depth": _MOST_FUSED}):
        mod = relax.transform.FuseOps()(mod)
    mod = sizes_together(mod)
    mod = relax.transform.FuseTIR()(mod)
    return relax.transform.DeadCodeElimination(["main"])(mod)


def sizes_together(mod: tvm.IRModule) -> tvm.IRModule:
    """FuseOps gives a fused function the sizes that its tensors do not show as a last parameter of their own, a shape; FuseTIR takes that,
    or numbers, but not both. So where there are both, the numbers go into the shape."""
    together = {}
    out = mod.clone()
    for gvar, func in mod.functions_items():
        if (
            not isinstance(func, relax.Function)
            or not func.params
            or not isinstance(func.params[-1].ty, relax.ShapeType)
        ):
            continue
        numbers = [i for i, p in enumerate(func.params) if isinstance(p.ty, tvm.ir.PrimType)]
        if not numbers:
            continue
        together[gvar.name_hint] = numbers
        values = [*(func.params[i] for i in numbers), *func.params[-1].ty.values]
        params = [p for i, p in enumerate(func.params[:-1]) if i not in numbers]
        params.append(relax.Var(str(func.params[-1].name), relax.ShapeType(values)))
        out.update_func(gvar, relax.Function(params, func.body, func.ret_ty, func.is_pure, func.attrs, func.span))
    if not together:
        return mod
    calls = _SizesTogether(together)
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function) and gvar.name_hint not in together:
            out.update_func(gvar, calls.visit_expr(func))
    return out


@relax.expr_functor.mutator
class _SizesTogether(relax.PyExprMutator):  # type: ignore[misc]
    """Calls of such functions: which of the arguments are the numbers, by the function's name."""

    def __init__(self, together: dict[str, list[int]]) -> None:
        super().__init__()
        self._together = together

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        numbers = self._together.get(call.op.name_hint) if isinstance(call.op, tvm.ir.GlobalVar) else None
        if numbers is None:
            return call
        shape = relax.ShapeExpr([*(call.args[i] for i in numbers), *call.args[-1].values])
        args = [*(arg for i, arg in enumerate(call.args[:-1]) if i not in numbers), shape]
        return tvm.ir.Call(call.op, args, call.attrs, list(call.ty_args), call.span, call.ty)


def fence(mod: tvm.IRModule) -> tvm.IRModule:
    """Put each binding that gives a symbol its value into a block of its own.

    Fusion works block by block and knows nothing of symbols: it would move a loop over `n` before the binding of `n`.
    """
    out = mod.clone()
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function) and _binds_symbols(func.body):
            body = _fenced(func.body)
            out.update_func(gvar, relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span))
    return out


def _binds_symbols(body: relax.SeqExpr) -> bool:
    """Whether a binding gives a symbol its value, in a branch of an If too."""
    for block in body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(binding, relax.MatchCast):
                return True
            if isinstance(value, relax.If) and (
                _binds_symbols(value.true_branch) or _binds_symbols(value.false_branch)
            ):
                return True
    return False


def _fenced(body: relax.SeqExpr) -> relax.SeqExpr:
    """Dataflow blocks between the fences; a variable that leaves its block becomes an ordinary one."""
    parts: list[tuple[bool, list[relax.Binding]]] = []  # (fence, bindings)
    for block in body.blocks:
        dataflow = isinstance(block, relax.DataflowBlock)
        for binding in block.bindings:
            fence_here = isinstance(binding, relax.MatchCast) or not dataflow
            if not parts or parts[-1][0] != fence_here:
                parts.append((fence_here, []))
            parts[-1][1].append(binding)
    home = {binding.var: i for i, (_, bindings) in enumerate(parts) for binding in bindings}
    leaving = {
        var for i, (_, bindings) in enumerate(parts) for b in bindings for var in _read(b.value) if home.get(var) != i
    }
    leaving.update(_read(body.body))
    leaving.update(binding.var for fence_here, bindings in parts if fence_here for binding in bindings)
    names = {
        var: relax.Var(str(var.name), var.ty) for var in leaving if isinstance(var, relax.DataflowVar) and var in home
    }

    def renamed(binding: relax.Binding) -> relax.Binding:
        var, value = names.get(binding.var, binding.var), _renamed(binding.value, names)
        if isinstance(binding, relax.MatchCast):
            return relax.MatchCast(var, value, binding.ty)
        return relax.VarBinding(var, value)

    blocks = [
        (relax.BindingBlock if fence_here else relax.DataflowBlock)([renamed(binding) for binding in bindings])
        for fence_here, bindings in parts
    ]
    seq = relax.SeqExpr(blocks, _renamed(body.body, names))
    relax.expr._update_type(seq, body.ty)
    return seq


def _read(expr: relax.Expr) -> list[relax.Var]:
    return list(relax.analysis.free_vars(expr))


def _renamed(expr: relax.Expr, names: dict[relax.Var, relax.Var]) -> relax.Expr:
    """`expr`, a binding's value, with other variables of the same types."""
    if isinstance(expr, tvm.ir.Var):
        return names.get(expr, expr)
    if isinstance(expr, relax.Call):
        args = [_renamed(arg, names) for arg in expr.args]
        return tvm.ir.Call(expr.op, args, expr.attrs, list(expr.ty_args), expr.span, expr.ty)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_renamed(field, names) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_renamed(expr.tuple_value, names), expr.index)
    if isinstance(expr, relax.If):
        branches = [_fenced(b) if _binds_symbols(b) else b for b in (expr.true_branch, expr.false_branch)]
        out = relax.If(_renamed(expr.cond, names), *branches)
        relax.expr._update_type(out, expr.ty)
        return out
    return expr  # a constant, a shape


def _has_plain_blocks(mod: tvm.IRModule) -> bool:
    sequences = [func.body for _, func in mod.functions_items() if isinstance(func, relax.Function)]
    return any(not isinstance(block, relax.DataflowBlock) for body in sequences for block in body.blocks)

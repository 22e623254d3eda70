"""Sizes that generated functions take: in one order, which decides neither names nor the number of functions."""

from __future__ import annotations

import tvm
from maas_rt.compiler.passes.legalize import legalize
from tvm import relax, tirx


def grids() -> tvm.IRModule:
    """Operators whose functions take sizes that none of their tensors shows."""
    sizes = [tirx.Var(name, "int64") for name in "abcd"]
    a, b, c, d = sizes
    shown = [relax.Var(f"x{i}", relax.TensorType([size], "float32")) for i, size in enumerate(sizes)]
    x = relax.Var("x", relax.TensorType([1, 1, 3], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *shown]):
        with builder.dataflow():
            made = []
            for rows, columns in ((a + b, c + d), (c + d, a + b), (a + c + 1, b + d + 1)):
                made.append(builder.emit(relax.op.broadcast_to(x, relax.ShapeExpr([rows, columns, 3]))))
                made.append(builder.emit(relax.op.sin(made[-1])))
            out = builder.emit_output(relax.Tuple(made))
        builder.emit_func_output(out)
    return builder.get()


def test_every_legalization_gives_the_same_module() -> None:
    """TVM takes the sizes from a set, in the order of addresses: 24 orders of four."""
    scripts = {legalize(grids()).script(show_meta=False) for _ in range(8)}
    assert len(scripts) == 1
    lowered = legalize(grids())
    names = sorted(gvar.name_hint for gvar, func in lowered.functions_items() if isinstance(func, tirx.PrimFunc))
    assert [name for name in names if name.startswith("broadcast_to")] == ["broadcast_to", "broadcast_to1"]
    calls = [
        binding.value
        for block in lowered["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.args[0].name_hint.startswith("broadcast_to")
    ]
    handed = [[str(number.name) for number in call.args[1].fields[1:]] for call in calls]
    assert handed == [["a", "b", "c", "d"], ["c", "d", "a", "b"], ["a", "c", "b", "d"]]

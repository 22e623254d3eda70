"""What a model's Python decided from sizes while it was traced: conditions of branches, and sizes that became plain numbers.

A trace has one side of each branch. torch.export keeps what its own ranges can say of that; the rest stands in the shape environment
(`guards`), and what it took for certain, as that no size is 1, stands nowhere: so decisions are recorded while they are taken.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import math
import operator
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files
from torch.utils._sympy import functions as tf
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from maas_rt._errors import ImportModelError

__all__ = ["Decision", "decisions_of", "environment", "recorded", "sizes_of", "value_at"]

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = (
    os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
)  # which runs the program's operators to decompose them
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
# Modules of torch that are written on top of its operators, as a model's own code is.
_ON_TOP = tuple(_TORCH + name for name in ("nn" + os.sep, "functional.py", "_tensor.py", "distributions" + os.sep))
_CALLS = inspect.getfile(torch.nn.Module)  # which calls what decides, generated code too


@dataclass(frozen=True)
class Decision:
    """`holds`, a relation of torch's symbols, is true of every size for which the trace is the model. `place` is where it was taken;
    `authored`: in Python on top of torch's operators, not within one, which may have decided no more than how to compute the same."""

    holds: Any
    place: str
    authored: bool
    of_extent: bool = False  # it asks for no more than an extent that is not negative


@contextlib.contextmanager
def recorded() -> Iterator[list[Decision]]:
    """The decisions that are taken meanwhile, each once in a place."""
    found: list[Decision] = []
    known: set[tuple[Any, str, bool]] = set()
    uninteresting_files().add(__file__)  # torch notes where its own guards come from, too
    evaluate, promise = ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert

    def note(expression: Any, value: Any) -> None:
        if not getattr(expression, "free_symbols", None):
            return
        place, authored = _place()
        if (expression, place, authored) not in known:
            known.add((expression, place, authored))
            found.append(Decision(_relation(expression, value), place, authored))

    def evaluated(self: ShapeEnv, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        value = evaluate(self, orig_expr, *args, **kwargs)
        note(orig_expr, value)
        return value

    def promised(self: ShapeEnv, orig_expr: Any, *args: Any, **kwargs: Any) -> bool:
        value: bool = promise(self, orig_expr, *args, **kwargs)
        note(orig_expr, True)
        return value

    ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert = evaluated, promised  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        ShapeEnv.evaluate_expr, ShapeEnv.guard_or_defer_runtime_assert = evaluate, promise  # type: ignore[method-assign]


def decisions_of(program: ExportedProgram, guards: Sequence[str] = ()) -> list[Decision]:
    """What the program's shape environment kept. `guards` is what torch.export.save wrote down of one that was read from a file: those that
    the program's own operators do not ask for when they are decomposed are the author's."""
    env = environment(program)
    if env is None:
        return []
    found: dict[Any, Decision] = {}
    for guard in env.guards:
        frame = guard.sloc.framework_loc
        file, line = getattr(frame, "filename", _TORCH), getattr(frame, "lineno", 0)
        found.setdefault(guard.expr, Decision(guard.expr, _short(file, line), _is_authored(file)))
    known = {_form(relation) for relation in found}
    for text in guards:
        relation = _parsed(text, program)
        if _form(relation) not in known and not _sets_one_apart(relation):
            found.setdefault(relation, Decision(relation, "", True))
    return list(found.values())


def _form(relation: Any) -> Any:
    """The same for both ways to write a comparison."""
    return getattr(relation, "canonical", relation)


def _sets_one_apart(relation: Any) -> bool:
    """Whether a guard only tells sizes of 0 and 1 from others, as torch's operators do for broadcasting and strides everywhere."""
    if not isinstance(relation, sympy.core.relational.Relational):
        return False
    if any(isinstance(side, (tf.Mod, tf.PythonMod)) for side in relation.args):
        return False
    one = any(side in (0, 1) for side in relation.args)
    return one and isinstance(relation, (sympy.Ne, sympy.StrictGreaterThan, sympy.StrictLessThan))


def environment(program: ExportedProgram) -> Any:
    """The program's ShapeEnv; None where nothing of it is dynamic."""
    for node in program.graph.nodes:
        fake = node.meta.get("val")
        for size in fake.shape if isinstance(fake, torch.Tensor) else [fake]:
            if isinstance(size, (torch.SymInt, torch.SymFloat)):
                return size.node.shape_env
    return None


class _Numbers(PythonReferenceAnalysis):
    """torch's interpretation of size expressions in Python, as it computes with numbers alone."""

    @staticmethod
    def floordiv(a: Any, b: Any) -> Any:
        return a // _divisor(b)

    @staticmethod
    def mod(a: Any, b: Any) -> Any:
        return a % _divisor(b)

    python_mod = mod

    @staticmethod
    def int_truediv(a: Any, b: Any) -> float:
        return float(a / _divisor(b))

    @staticmethod
    def trunc_to_int(a: Any, dtype: Any) -> int:
        whole: int = math.trunc(a)
        return whole

    @staticmethod
    def bitwise_and(a: Any, b: Any) -> Any:
        return a & b

    @staticmethod
    def bitwise_or(a: Any, b: Any) -> Any:
        return a | b

    @staticmethod
    def bitwise_xor(a: Any, b: Any) -> Any:
        return a ^ b


def _divisor(number: Any) -> Any:
    if number == 0:
        raise NotImplementedError  # the one error of which torch's interpreter makes no log line
    return number


def value_at(expression: Any, sizes: Mapping[Any, int]) -> Any:
    """The number, or the truth, that an expression of torch's symbols is for some sizes, computed as Python did."""
    return sympy_interp(_Numbers, dict(sizes), expression)


def sizes_of(env: Any) -> dict[Any, int]:
    """The sizes with which a program was traced, by symbol."""
    return {
        symbol: int(value) for symbol, value in env.backed_var_to_val.items() if getattr(value, "is_Integer", False)
    }


def _relation(expression: Any, value: Any) -> Any:
    if value in (True, sympy.true):
        return expression if isinstance(expression, sympy.logic.boolalg.Boolean) else sympy.Eq(expression, 1)
    if value in (False, sympy.false) and isinstance(expression, sympy.logic.boolalg.Boolean):
        return sympy.Not(expression)
    return sympy.Eq(expression, value)


def _place() -> tuple[str, bool]:
    """Where in the model's own code a decision is taken now, and whether by code on top of torch's operators."""
    frame: Any = sys._getframe(2)
    hidden = uninteresting_files()
    while frame.f_back is not None and (frame.f_code.co_filename in hidden or _is_neutral(frame.f_code.co_filename)):
        frame = frame.f_back
    authored, first = _is_authored(frame.f_code.co_filename), frame
    while frame is not None and (frame.f_code.co_filename.startswith(_TORCH) or _is_neutral(frame.f_code.co_filename)):
        frame = frame.f_back
    frame = frame or first
    return _short(frame.f_code.co_filename, frame.f_lineno), authored


def _is_neutral(file: str) -> bool:
    return file == __file__ or (file.startswith(_STANDARD) and "site-packages" not in file)


def _is_authored(file: str) -> bool:
    return not file.startswith((_TORCH, _OURS)) or (file.startswith(_ON_TOP) and file != _CALLS)


def _short(file: str, line: int | None) -> str:
    return f"{os.path.basename(file)}:{line}"


def _parsed(text: str, program: ExportedProgram) -> Any:
    """A guard as torch.export prints it, `2*L['x'].size()[0] > L['y'][1].size()[0]`, as a relation of the program's symbols.

    ImportModelError for anything else; nothing of it is run."""
    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    try:
        if len(text) > 4096:
            raise ValueError("it is too long")
        return sympy.sympify(_value(ast.parse(text, mode="eval").body, fakes))
    except (ValueError, SyntaxError, RecursionError, ArithmeticError, AttributeError, TypeError) as error:
        raise ImportModelError(
            f"the exported program asks {text[:80]!r} of its inputs, which is not understood ({error}): export it again with this torch, or give "
            "the module"
        ) from error


def _value(node: ast.AST, fakes: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return sympy.sympify(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        operand = _value(node.operand, fakes)
        return -operand if isinstance(node.op, ast.USub) else sympy.Not(operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        if exponent not in range(1, 9):  # others could take for ever to evaluate
            raise ValueError(f"the guard {ast.unparse(node)[:80]}, whose exponent is not from 1 to 8")
        return _value(node.left, fakes) ** exponent
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_value(node.left, fakes), _value(node.right, fakes))
    if isinstance(node, ast.BoolOp):
        join = sympy.And if isinstance(node.op, ast.And) else sympy.Or
        return join(*[_value(each, fakes) for each in node.values])
    if isinstance(node, ast.Compare) and all(type(each) in _COMPARISONS for each in node.ops):
        sides = [_value(each, fakes) for each in (node.left, *node.comparators)]
        return sympy.And(*[_COMPARISONS[type(op)](*pair) for op, pair in zip(node.ops, itertools.pairwise(sides))])
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _FUNCTIONS:
        return _FUNCTIONS[ast.unparse(node.func)](*[_value(each, fakes) for each in node.args])
    return _input_size(node, fakes)


def _input_size(node: ast.AST, fakes: Mapping[str, Any]) -> Any:
    """L['x'][0].size()[1], whose placeholder is x_0; L['n'] is a number's own."""
    match = _SIZE.fullmatch(ast.unparse(node))
    if match is not None:
        name = "_".join(re.sub(r"\W", "_", part) for part in _PART.findall(match["path"]))
        fake = fakes.get(name)
        if isinstance(fake, torch.Tensor) and match["axis"] and int(match["axis"]) < fake.ndim:
            fake = fake.shape[int(match["axis"])]
        if isinstance(fake, (int, float)):
            return sympy.sympify(fake)
        if isinstance(fake, (torch.SymInt, torch.SymFloat)):
            return fake.node.expr
    raise ValueError(f"the guard {ast.unparse(node)[:80]}, which names no size of an input")


_SIZE = re.compile(r"L(?P<path>(\[('\w+'|\d+)\])+)(\.size\(\)\[(?P<axis>\d+)\])?", re.ASCII)
_PART = re.compile(r"\['?(\w+)'?\]", re.ASCII)
_ARITHMETIC: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: tf.FloorDiv,
    ast.Mod: tf.Mod,
    ast.Div: tf.IntTrueDiv,
    ast.BitAnd: tf.BitwiseFn_bitwise_and,
}
_COMPARISONS: dict[type, Any] = {
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
}
_FUNCTIONS: dict[str, Any] = {
    "max": tf.Max,
    "min": tf.Min,
    "math.trunc": tf.TruncToInt,
    "math.ceil": tf.CeilToInt,
    "math.floor": tf.FloorToInt,
    "round": tf.RoundToInt,
    "torch.sym_float": tf.ToFloat,
}

"""Holds the JSON of an exported program to what torch.export writes, so that no string in it can become code.

torch's deserializer makes Python source of node names, parses size expressions with sympy (whose parser evaluates), resolves
operators by attribute path, and compiles guards. Each of these strings must match a narrow form; the rest is dropped.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from typing import Any

import torch

__all__ = ["RefusedProgramError", "checked_program"]


class RefusedProgramError(Exception):
    """The program holds something that no real one does; the text says what, in a clause."""


_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PLAIN = re.compile(r"[\w.\-]*", re.ASCII)  # paths of modules and weights, kinds, devices
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.[a-z_A-Z]\w*\.\w+", re.ASCII)
# Operators that reach outside of tensors: files, the terminal.
_WITH_EFFECTS = frozenset({"from_file", "_print", "save", "load"})
_HIGHER_ORDER = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in "cond map_impl wrap_with_set_grad_enabled while_loop scan associative_scan".split()
)
_OF_NUMBERS = frozenset(
    [
        f"_operator.{n}"
        for n in "add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ getitem index".split()
    ]
    + [f"math.{n}" for n in "ceil floor trunc sqrt pow round exp log".split()]
    + [f"torch.{n}" for n in "sym_int sym_float sym_max sym_min sym_not sym_ite sym_sum _sym_sqrt".split()]
)
# What a size expression may call; names that are not called are symbols.
_CALLABLE = frozenset(
    "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow "
    "FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity Max Min Eq Ne Lt Le Gt Ge And Or Not "
    "floor ceiling Abs Pow Add Mul Integer Rational Float Symbol Equality Unequality StrictGreaterThan GreaterThan "
    "StrictLessThan LessThan Half One Zero NegativeOne".split()
)
_ASSUMPTIONS = frozenset("positive negative nonnegative nonpositive integer real zero nonzero finite precision".split())
_SYMBOL = re.compile(r"_?(s|u|zf|zuf|z)\d{1,5}|int_oo|oo|True|False|true|false", re.ASCII)
_OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr)
_FLOAT = re.compile(r"[0-9.e+\-]{1,40}", re.ASCII)
_CONTAINERS = frozenset({"builtins.dict", "builtins.list", "builtins.tuple", "collections.OrderedDict", None})
# Metadata that says where a node came from; all other metadata is dropped.
_KEPT_METADATA = ("stack_trace", "nn_module_stack")


def checked_program(program: Any) -> dict[str, Any]:
    """The program with unneeded text dropped; raises RefusedProgramError."""
    if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
        raise RefusedProgramError("its program is malformed")
    kept = dict(program)
    kept["guards_code"] = []
    kept["torch_version"] = ""
    verifiers = kept.get("verifiers", [])
    if not isinstance(verifiers, list) or not all(v in ("TRAINING", "ATEN") for v in verifiers):
        raise RefusedProgramError("its program asks for an unknown dialect")
    constraints = kept.get("range_constraints", {})
    if not isinstance(constraints, dict):
        raise RefusedProgramError("its program is malformed")
    for expression in constraints:
        _check_expression(expression)
    result = _checked(kept, "", 0)
    assert isinstance(result, dict)
    result["range_constraints"] = {key: _checked(value, "", 0) for key, value in constraints.items()}
    return result


def _checked(value: Any, key: str, depth: int) -> Any:
    if depth > 200:
        raise RefusedProgramError("its program is nested too deeply")
    if isinstance(value, dict):
        return _checked_dict(value, key, depth)
    if isinstance(value, list):
        return [_checked(item, key, depth + 1) for item in value]
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _checked_dict(value: dict[Any, Any], key: str, depth: int) -> dict[str, Any]:
    if key == "metadata":
        return {name: _flat_text(value[name]) for name in _KEPT_METADATA if isinstance(value.get(name), str)}
    if key == "range_constraints":
        return {}
    if key == "treespec_namedtuple_fields":
        return {}
    result: dict[str, Any] = {}
    for name, item in value.items():
        if not isinstance(name, str) or ((key == "tensor_values" or key.startswith("sym_")) and not _is_name(name)):
            raise RefusedProgramError("its program names a value in a form that is no identifier")
        if not _PLAIN.fullmatch(name):
            raise RefusedProgramError(f"its program has a field {name[:40]!r}")
        result[name] = _checked(item, name, depth + 1)
    return result


def _flat_text(text: str) -> str:
    """Free text that torch may copy into comments of generated code: kept, with anything that ends a line made harmless."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _check_text(text: str, key: str) -> None:
    if key == "expr_str":
        _check_expression(text)
    elif key == "target":
        _check_target(text)
    elif key in ("in_spec", "out_spec"):
        _check_tree(text)
    elif key in ("name", "as_name"):
        if not _is_name(text):
            raise RefusedProgramError(f"its program names a value {text[:40]!r}, which is no identifier")
    elif key == "as_string" or key == "as_strings":
        return  # an argument of an operator, as "bij,bjk->bik"; torch writes it with repr
    elif not _PLAIN.fullmatch(text):
        raise RefusedProgramError(f"its program holds {text[:40]!r} as {key}, which is no plain name")


def _is_name(text: str) -> bool:
    return text == "" or (bool(_IDENTIFIER.fullmatch(text)) and not keyword.iskeyword(text))


def _check_target(text: str) -> None:
    if text in _HIGHER_ORDER or text in _OF_NUMBERS:
        return
    if not _OPERATOR.fullmatch(text) or text.split(".")[3] in _WITH_EFFECTS:
        raise RefusedProgramError(f"its program calls {text[:80]!r}, which is no ATen operator")
    namespace, name, overload = text.split(".")[2:5]
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():
        raise RefusedProgramError(f"its program calls {text[:80]!r}, which this torch does not have")


def _check_expression(text: Any) -> None:
    """A size: numbers, symbols, arithmetic, and functions on the list."""
    if not isinstance(text, str) or len(text) > 4096:
        raise RefusedProgramError("its program has a size that is no expression")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RefusedProgramError(f"its program has the size {text[:60]!r}, which is no expression") from error
    if not _is_expression(tree.body):
        raise RefusedProgramError(f"its program has the size {text[:60]!r}, which is no plain expression")


def _is_expression(node: ast.AST) -> bool:
    """Whether the tree is arithmetic of numbers, symbols and calls of listed functions; both spellings that torch writes, `2*s0` and
    sympy's `Mul(Integer(2), Symbol('s0', integer=True))`."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float)) and abs(node.value) < 2**64
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.BinOp):
        power = not isinstance(node.op, ast.Pow) or _is_small(node.right)
        return isinstance(node.op, _OPERATIONS) and power and _is_expression(node.left) and _is_expression(node.right)
    if isinstance(node, ast.UnaryOp):
        return _is_expression(node.operand)
    if isinstance(node, ast.BoolOp):
        return all(_is_expression(value) for value in node.values)
    if isinstance(node, ast.Compare):
        return all(_is_expression(value) for value in [node.left, *node.comparators]) and all(
            isinstance(op, (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for op in node.ops
        )
    return isinstance(node, ast.Call) and _is_call(node)


def _is_call(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    plain = all(
        k.arg in _ASSUMPTIONS and isinstance(k.value, ast.Constant) and isinstance(k.value.value, int)
        for k in node.keywords
    )
    if name not in _CALLABLE or not plain:
        return False
    if name in ("Symbol", "Float"):
        text = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) else None
        form = _SYMBOL if name == "Symbol" else _FLOAT
        return isinstance(text, str) and bool(form.fullmatch(text))
    if name in ("Pow", "PowByNatural", "LShift", "FloatPow") and not (len(node.args) == 2 and _is_small(node.args[1])):
        return False
    return all(_is_expression(argument) for argument in node.args)


def _is_small(node: ast.AST) -> bool:
    """Whether an exponent is a number from -8 to 8: others could take for ever to evaluate."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Integer"
        and len(node.args) == 1
    ):
        return _is_small(node.args[0])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_small(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and -8 <= node.value <= 8


def _check_tree(text: str) -> None:
    """A pytree specification: builtin containers only."""
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise RefusedProgramError("its program has a malformed structure of arguments") from error
    pending = value[1:] if isinstance(value, list) else []
    while pending:
        item = pending.pop()
        if not isinstance(item, dict) or not isinstance(item.get("children_spec"), list):
            raise RefusedProgramError("its program has a malformed structure of arguments")
        if item.get("type") not in _CONTAINERS:
            raise RefusedProgramError(
                f"its arguments or results contain a {str(item['type'])[:60]}, which is no builtin container"
            )
        pending += item["children_spec"]

"""Arithmetic on extents: Python integers where they are known, tirx expressions of symbols where they are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tvm
from tvm import tirx

# An extent or an element of a shape-like value: int, or a tirx expression of dtype int64.
Dim = Any

__all__ = ["AmbiguousDims", "Dim", "ShapeMath", "UndecidedDims"]


class AmbiguousDims(Exception):
    """A symbol meets another extent where only equality (or 1) would do; the import starts again with them made equal."""

    def __init__(self, symbol: str, other: Dim) -> None:
        super().__init__(f"{symbol} against {other}")
        self.symbol = symbol
        self.other = other


class UndecidedDims(Exception):
    """Two extents must be equal, and only a run could tell: the node is refused."""


class ShapeMath:
    """Simplified arithmetic, comparison by proof, and broadcasting of extents; knows the bounds of the symbols."""

    def __init__(self) -> None:
        self._analyzer = tvm.sym.Analyzer()
        self.symbols: dict[str, Any] = {}
        self.derived: set[str] = set()  # symbols that the run itself computes; nothing may be unified with them
        self.local: set[str] = set()  # those of them that a branch of an If computes, and that do not exist outside
        self.assumed: list[tuple[Dim, Dim]] = []  # equalities that the run checks
        self.on_assume: Callable[[Dim, Dim], None] | None = None  # emits such a check
        self.branches = 0  # how many branches and loop bodies enclose what is converted now
        self.choices = 0  # how many of them are branches, which a run may leave out

    def symbol(self, name: str, low: int = 0, high: int | None = None, *, derived: bool = False) -> Any:
        """The variable of this name, made on first use with bounds low <= value (<= high)."""
        if name not in self.symbols:
            var = tirx.Var(name, "int64")
            top = tvm.sym.ConstIntBound.POS_INF if high is None else high
            self._analyzer.update(var, tvm.sym.ConstIntBound(low, top))
            self.symbols[name] = var
            if derived:
                self.derived.add(name)
                if self.branches:
                    self.local.add(name)
        return self.symbols[name]

    def simplify(self, value: Dim) -> Dim:
        """A Python int if the value is known, else the simplified expression."""
        if isinstance(value, int):
            return value
        if isinstance(value, tirx.IntImm):
            return int(value.value)
        if hasattr(value, "item"):
            return int(value)
        out = self._analyzer.simplify(value)
        return int(out.value) if isinstance(out, tirx.IntImm) else out

    def add(self, a: Dim, b: Dim) -> Dim:
        return self.simplify(a + b)

    def sub(self, a: Dim, b: Dim) -> Dim:
        return self.simplify(a - b)

    def mul(self, a: Dim, b: Dim) -> Dim:
        return self.simplify(a * b)

    def floordiv(self, a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return self.simplify(tirx.floordiv(_expr(a), _expr(b)))

    def floormod(self, a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return self.simplify(tirx.floormod(_expr(a), _expr(b)))

    def ceildiv(self, a: Dim, b: Dim) -> Dim:
        return self.floordiv(self.add(a, b - 1), b)

    def min(self, a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.simplify(tirx.min(_expr(a), _expr(b)))

    def max(self, a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.simplify(tirx.max(_expr(a), _expr(b)))

    def product(self, dims: Iterable[Dim]) -> Dim:
        out: Dim = 1
        for d in dims:
            out = self.mul(out, d)
        return out

    def same(self, a: Dim, b: Dim) -> bool:
        """Whether a == b is certain, or was assumed before (and is checked by the run)."""
        return self.certain(a, b) or any(
            (self.certain(a, p) and self.certain(b, q)) or (self.certain(a, q) and self.certain(b, p))
            for p, q in self.assumed
        )

    def certain(self, a: Dim, b: Dim) -> bool:
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return bool(self._analyzer.can_prove_equal(_expr(a), _expr(b)))

    def proves(self, condition: Any) -> bool:
        """Whether a tirx condition is certainly true (a Python bool is what it says)."""
        return condition if isinstance(condition, bool) else bool(self._analyzer.can_prove(condition))

    def span(self, value: Dim) -> tuple[int, int]:
        """The least and the largest number that an extent may be."""
        bound = self._analyzer.const_int_bound(_expr(value))
        return max(int(bound.min_value), 0), int(bound.max_value)

    def compare(self, op: str, a: Dim, b: Dim) -> bool | None:
        """a op b for op in == < <= > >=: True, False, or None if it depends on the symbols' values."""
        if isinstance(a, int) and isinstance(b, int):
            return {"==": a == b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
        x, y = _expr(a), _expr(b)
        if op == "==":
            if self.same(a, b):
                return True
            return False if self.proves(x < y) or self.proves(x > y) else None
        yes, no = {"<": (x < y, x >= y), "<=": (x <= y, x > y), ">": (x > y, x <= y), ">=": (x >= y, x < y)}[op]
        if self.proves(yes):
            return True
        return False if self.proves(no) else None

    def require_same(self, a: Dim, b: Dim) -> Dim:
        """The common extent where a and b must be equal. ValueError if they cannot be; AmbiguousDims if an input's symbol has to
        give in (not to a branch, which may not run); what is left is assumed, and checked by every run that comes there."""
        if self.same(a, b):
            return a if isinstance(a, int) else b
        if (isinstance(a, int) and isinstance(b, int)) or self.compare("==", a, b) is False:
            raise ValueError(f"extents {a} and {b} differ")
        for x, y in ((a, b), (b, a)):
            if not self.choices and self._free(x) and (isinstance(y, int) or self._free(y)):
                raise AmbiguousDims(x.name, y)
        if self.on_assume is None:
            raise UndecidedDims(f"extents {a} and {b}, which only a run could show to be equal")
        self.on_assume(a, b)
        self.assumed.append((a, b))
        return a if isinstance(a, int) else b

    def require_at_most(self, a: Dim, b: Dim) -> None:
        """Extent a must not be more than b: ValueError if it is; where only a run can tell, each is checked."""
        fits = self.compare("<=", a, b)
        if fits is False:
            raise ValueError(f"an extent is {a}, where at most {b} is possible")
        if fits is None:
            self.require_same(self.min(a, b), a)

    def require_broadcast(self, have: Sequence[Dim], want: Sequence[Dim]) -> None:
        """A tensor of the first shape must broadcast to the second, which stays as it is: ValueError if it does not."""
        if len(have) > len(want):
            raise ValueError(f"shape {list(have)} does not broadcast to {list(want)}")
        for a, b in zip(reversed(have), reversed(want), strict=False):
            if not self.same(a, 1):
                self.require_same(a, b)

    def relations(self) -> dict[str, Dim]:
        """The symbols of inputs that every run has to find equal to an expression of others."""
        out: dict[str, Dim] = {}
        for a, b in self.assumed:
            for x, y in ((a, b), (b, a)):
                others = set() if isinstance(y, int) else {v.name for v in tirx.analysis.undefined_vars(y)}
                if self._free(x) and x.name not in {*out, *others} and not others & self.derived:
                    out[x.name] = y
                    break
        return out

    def _free(self, d: Dim) -> bool:
        """Whether an extent is a symbol of the inputs, alone."""
        return isinstance(d, tirx.Var) and d.name not in self.derived

    def depends_on_run(self, d: Dim) -> bool:
        """Whether an extent is made of something that the run itself computes."""
        return not isinstance(d, int) and any(v.name in self.derived for v in tirx.analysis.undefined_vars(d))

    def broadcast_dim(self, a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and a == 1:
            return b
        if isinstance(b, int) and b == 1:
            return a
        for x, y in (
            (a, b),
            (b, a),
        ):  # the last of some, as x[:, -1:]: 1, but 0 where there are none, which a run then refuses
            if not isinstance(x, int | tirx.Var) and self.on_assume is not None and self.proves(x <= 1):
                if self.same(x, y):
                    return y
                if not self.same(x, 1):
                    self.on_assume(x, 1)
                    self.assumed.append((x, 1))
                return y
        return self.require_same(a, b)

    def broadcast(self, *shapes: Sequence[Dim]) -> tuple[Dim, ...]:
        """NumPy's broadcasting of shapes."""
        rank = max((len(s) for s in shapes), default=0)
        out: list[Dim] = [1] * rank
        for s in shapes:
            for i, d in enumerate(s):
                at = rank - len(s) + i
                out[at] = self.broadcast_dim(out[at], d)
        return tuple(out)


def _expr(value: Dim) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value

"""A body in its loops: lowered once to learn what it touches, then again over the loops that are left after collapsing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.sym import Analyzer

from ._body import Access, Body
from ._nests import collapse, constant, product
from ._stages import replace_vars

__all__ = ["Lowered", "Range", "lower_in_loops", "zero"]

Range = tuple[Any, Any]  # (variable, extent)
# Lowers the body with given flat indices and the variables that these were made with; None the first time.
Lower = Callable[["Sequence[Any] | None", Sequence[Any]], Body]


@dataclass(frozen=True)
class Lowered:
    """`spatial` and `reduce` are the loops that are left; `body` is the first lowering, its accesses' strides along these."""

    spatial: list[Range]
    reduce: list[Range]
    body: Body
    _indices: list[Any]
    _lower: Lower

    def lower(self, moved: Mapping[Any, Any] | None = None) -> Body:
        """A fresh body; `moved` puts expressions in the place of loop variables (of loops that only address memory)."""
        indices = self._indices if not moved else [replace_vars(index, moved) for index in self._indices]
        return self._lower(indices, self.body.bound)

    def stride(self, access: Access, var: Any) -> int | None:
        """The access's constant stride along a loop that is left; None if it is not constant."""
        if access.strides is None:
            return None
        for (each, _), stride in zip([*self.spatial, *self.reduce], access.strides):
            if each is var:
                return constant(stride)
        return None


def lower_in_loops(spatial: Sequence[Range], reduce: Sequence[Range], lower: Lower, analyzer: Analyzer) -> Lowered:
    """Lower a body and collapse its loops, the spatial ones and the reducing ones each among themselves."""
    body = lower(None, ())
    loops = [*spatial, *reduce]
    dropped = {var: zero() for var, extent in loops if constant(extent) == 1}
    kept: list[list[Range]] = []
    for part in (spatial, reduce):
        real = [each for each in part if each[0] not in dropped]
        numbers = [next(i for i, each in enumerate(loops) if each[0] is var) for var, _ in real]
        view = replace(body, accesses=[_pick(access, numbers) for access in body.accesses])
        left = []
        for members in collapse(real, view, analyzer):
            var = real[members[-1]][0]
            dropped.update({real[member][0]: zero() for member in members[:-1]})
            left.append((var, product([real[member][1] for member in members])))
        kept.append(left)
    indices = [_rebuilt(access, loops, dropped) for access in body.accesses]
    numbers = [next(i for i, each in enumerate(loops) if each[0] is var) for var, _ in [*kept[0], *kept[1]]]
    seen = replace(body, accesses=[_pick(access, numbers) for access in body.accesses])
    return Lowered(kept[0], kept[1], seen, indices, lower)


def zero() -> Any:
    return tirx.IntImm("int64", 0)


def _pick(access: Access, numbers: Sequence[int]) -> Access:
    if access.strides is None:
        return access
    return replace(access, strides=tuple(access.strides[number] for number in numbers))


def _rebuilt(access: Access, loops: Sequence[Range], dropped: Mapping[Any, Any]) -> Any:
    """The access's flat index, over the loops that are left."""
    if access.strides is None:
        return access.index
    index = access.base
    for (var, _), stride in zip(loops, access.strides):
        if var in dropped or constant(stride) == 0:
            continue
        index = index + (var if constant(stride) == 1 else var * stride)
    return index

"""From the lowered module to the plan that the runtime executes, and the weights section that it points into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm

from maas_rt._plan import Plan

from ..importers._imported import ImportedModel
from ._builder import PlanBuilder
from ._order import compute_late
from ._weights import ROOM, WeightsSection

__all__ = ["ROOM", "LinearPlan", "build_plan"]


@dataclass(frozen=True)
class LinearPlan:
    """A plan and the weights section that its constants lie in."""

    plan: Plan
    weights: WeightsSection


def build_plan(model: ImportedModel, mod: tvm.IRModule, functions: Mapping[str, str], name: str) -> LinearPlan:
    """The plan of `mod["main"]`, the lowered form of `model.mod`; `functions` maps the names of its PrimFuncs to symbols of
    the code section. Raises CompileError that names the first binding that has no step."""
    builder = PlanBuilder(model, functions, name)
    plan = builder.build(mod["main"])
    compute_late(plan)
    return LinearPlan(plan, builder.weights)

"""Files whose kernel steps contradict what this library's contracts say, as those of a newer compiler may."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import maas_rt
from maas_rt._plan import Arg, ArgKind, Plan, Step, Storage
from tests._tiny import Builder


def product() -> tuple[Builder, int]:
    b = Builder()
    x = b.input("x", [2, 3])
    y = b.value("y", [2, 4])
    b.gemm(x, np.ones((3, 4), np.float32), y, act="relu")
    return b, y


def of_step(change: Callable[[Step], None]) -> Callable[[Plan], None]:
    return lambda plan: change(plan.blocks[0].steps[0])


def dense_weight(plan: Plan) -> None:
    weight = plan.values[plan.blocks[0].steps[0].args[1].index]
    weight.storage = Storage.ARENA


def weight_between_its_places(plan: Plan) -> None:
    weight = plan.values[plan.blocks[0].steps[0].args[1].index]
    weight.offset, weight.bytes = weight.offset + 8, weight.bytes - 8


def packed_where_dense_is_due(plan: Plan) -> None:
    step = plan.blocks[0].steps[0]
    plan.values[step.args[1].index].dims = [plan.exprs.index(next(e for e in plan.exprs if e.a == 4))] * 8
    step.args[2] = Arg(ArgKind.VALUE, step.args[1].index)


def bytes_where_floats_are_due(plan: Plan) -> None:
    plan.values[plan.blocks[0].steps[0].args[0].index].dtype_code = 1
    plan.values[plan.blocks[0].steps[0].args[0].index].dtype_bits = 8


def newer_attribute(step: Step) -> None:
    step.attrs[0].key = "sparsity"


CONTRADICTIONS: list[tuple[str, Callable[[Plan], None], str]] = [
    ("contract", of_step(lambda s: setattr(s, "target", "gemm_f12")), r"needs the kernel contract 'gemm_f12'.*newer"),
    ("packing", of_step(lambda s: setattr(s, "packing", "gemm_f32_nr16_v9")), r"packing 'gemm_f32_nr16_v9'.*compile"),
    ("no packing", of_step(lambda s: setattr(s, "packing", "")), r"weights in packing ''"),
    ("attribute", of_step(newer_attribute), r"gemm_f32: there is no attribute 'sparsity'.*newer"),
    ("more inputs", of_step(lambda s: s.args.append(Arg(ArgKind.ABSENT))), r"has 5 arguments, expected 2 to 4"),
    ("fewer inputs", of_step(lambda s: s.args.__delitem__(slice(1, None))), r"has 1 arguments, expected 2 to 4"),
    ("more outputs", of_step(lambda s: s.outs.append(s.outs[0])), r"has 2 outputs, expected 1 to 1"),
    ("needed", of_step(lambda s: s.args.__setitem__(0, Arg(ArgKind.ABSENT))), r"argument 0 \(a\).*is absent"),
    ("dense", dense_weight, r"packed weight of step.*not a constant"),
    ("aligned", weight_between_its_places, r"packed weight of step.*does not begin on a multiple of 64 bytes"),
    ("packed", packed_where_dense_is_due, r"smaller than its shape.*does not take it packed"),
    ("dtype", bytes_where_floats_are_due, r"argument 0 \(a\).*is uint8, expected float32"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in CONTRADICTIONS], ids=[r[0] for r in CONTRADICTIONS])
def test_a_file_that_contradicts_a_contract_is_refused_at_load(change: Callable[[Plan], None], message: str) -> None:
    builder, y = product()
    change(builder.plan)
    with pytest.raises(maas_rt.Error, match=message) as caught:
        maas_rt.load(builder.file(y))
    assert "\n" not in str(caught.value)


def test_the_file_that_was_changed_loads_as_it_was() -> None:
    builder, y = product()
    model = maas_rt.load(builder.file(y))
    np.testing.assert_array_equal(model(np.ones((2, 3), np.float32)), np.full((2, 4), 3, np.float32))

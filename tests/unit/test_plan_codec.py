"""The plan codec: held to plan.inc field by field, strict in both directions."""

from __future__ import annotations

import dataclasses
import re
import struct
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_rt import FormatError, InvalidArgumentError, _plan

CSRC = Path(__file__).parents[2] / "csrc"


def read_plan_inc() -> dict[str, list[tuple[str, str]]]:
    """{record: [(field, stored type)]} as plan.inc says it."""
    records: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"//.*", "", (CSRC / "artifact" / "plan.inc").read_text())
    current = ""
    for macro, inside in re.findall(r"(MRT_\w+)\(([^)]*)\)", text):
        parts = [part.strip() for part in inside.split(",")]
        if macro == "MRT_RECORD":
            current = parts[0]
            records[current] = []
        elif macro == "MRT_END":
            assert parts[0] == current
        else:
            prefix = {"MRT_FIELD": "", "MRT_REC": "", "MRT_LIST": "list ", "MRT_RECS": "list "}[macro]
            records[current].append((parts[1], prefix + parts[0]))
    return records


def test_dataclasses_mirror_plan_inc() -> None:
    records = read_plan_inc()
    assert set(records) == {
        c.__name__ for c in vars(_plan).values() if dataclasses.is_dataclass(c) and c.__name__[0] != "_"
    }
    for name, expected in records.items():
        cls = getattr(_plan, name)
        hints = typing.get_type_hints(cls, include_extras=True)
        assert [(f.name, _plan.stored_type(hints[f.name])) for f in dataclasses.fields(cls)] == expected, name


def test_enumerators_are_those_of_format_md() -> None:
    text = (CSRC / "artifact" / "FORMAT.md").read_text()
    places = {
        "ValueKind": _plan.ValueKind,
        "Encoding": _plan.Encoding,
        "DeviceKind": _plan.DeviceKind,
        "MemorySpace": _plan.MemorySpace,
        "Storage": _plan.Storage,
        "ArgKind": _plan.ArgKind,
        "StepKind": _plan.StepKind,
        "ExprOp": _plan.ExprOp,
    }
    for name, enum in places.items():
        listed = re.search(rf"\b{name}: ([^\n]*?)\.(?=\s|$)", text)
        assert listed is not None, name
        numbers = [int(n) for n in re.findall(r"(?:^|, )(\d+) ", re.sub(r"\([^)]*\)", "", listed[1]))]
        assert numbers == [member.value for member in enum], name


records = {name: getattr(_plan, name) for name in read_plan_inc()}


def strategy(hint: typing.Any) -> st.SearchStrategy[typing.Any]:
    if typing.get_origin(hint) is list:
        return st.lists(strategy(typing.get_args(hint)[0]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return record_strategy(hint)
    base, stored = typing.get_args(hint)
    if base not in (int, float, str):
        return st.sampled_from(base)
    return {
        "u8": st.integers(0, 255),
        "u32": st.integers(0, 2**32 - 1),
        "i64": st.integers(-(2**63), 2**63 - 1),
        "f64": st.floats(allow_nan=False),
        "str": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    }[stored]


def record_strategy(cls: typing.Any) -> st.SearchStrategy[typing.Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    members = {f.name: strategy(hints[f.name]) for f in dataclasses.fields(cls)}
    if cls is _plan.Plan:
        members["version"] = st.just(_plan.PLAN_VERSION)
    return st.builds(cls, **members)


@settings(max_examples=60, deadline=None)
@given(record_strategy(_plan.Plan))
def test_round_trip(plan: _plan.Plan) -> None:
    data = _plan.encode(plan)
    assert _plan.decode(data) == plan
    assert _plan.encode(_plan.decode(data)) == data


def small_plan() -> _plan.Plan:
    return _plan.Plan(
        name="né",
        symbols=[_plan.Symbol("batch", 1, 32)],
        exprs=[_plan.Expr(_plan.ExprOp.CONST, 5)],
        values=[_plan.Value("x", dims=[0])],
        blocks=[
            _plan.Block(
                steps=[_plan.Step(_plan.StepKind.KERNEL, "s", args=[_plan.Arg(_plan.ArgKind.VALUE, 0)], outs=[0])]
            )
        ],
    )


def test_every_truncation_is_refused() -> None:
    data = _plan.encode(small_plan())
    for n in range(len(data)):
        with pytest.raises(FormatError, match="plan"):
            _plan.decode(data[:n])
    with pytest.raises(FormatError, match="1 bytes follow"):
        _plan.decode(data + b"\0")


def test_huge_counts_are_refused_before_anything_is_read() -> None:
    with pytest.raises(FormatError, match="counts 4294967295 elements"):
        _plan.decode(struct.pack("<III", 1, 0, 0xFFFFFFFF))


def test_newer_plans_are_refused_by_version() -> None:
    with pytest.raises(FormatError, match="version 2"):
        _plan.decode(struct.pack("<I", 2) + b"what a newer version holds")


def test_unknown_enumerators_are_refused() -> None:
    data = bytearray(_plan.encode(_plan.Plan(exprs=[_plan.Expr(_plan.ExprOp.ADD)])))
    at = data.index(_plan.ExprOp.ADD, 16)
    data[at] = 99
    with pytest.raises(FormatError, match="ExprOp"):
        _plan.decode(bytes(data))


@pytest.mark.parametrize(
    ("plan", "place"),
    [
        (_plan.Plan(version=-1), "plan.version"),
        (_plan.Plan(symbols=[_plan.Symbol("n", 2**63)]), r"plan.symbols\[0\].min"),
        (_plan.Plan(values=[_plan.Value("v", dims=[1.5])]), r"plan.values\[0\].dims\[0\]"),  # type: ignore[list-item]
        (_plan.Plan(values=[_plan.Value("v", dtype_bits=256)]), r"plan.values\[0\].dtype_bits"),
        (_plan.Plan(values=[_plan.Value("v", base=True)]), r"plan.values\[0\].base"),
        (_plan.Plan(values=[_plan.Value(7)]), r"plan.values\[0\].name"),  # type: ignore[arg-type]
        (_plan.Plan(values=[_plan.Value("a\0b")]), "NUL"),
        (_plan.Plan(exprs=[_plan.Expr(77)]), r"plan.exprs\[0\].op"),  # type: ignore[arg-type]
        (_plan.Plan(blocks=[_plan.Expr(0)]), r"plan.blocks\[0\]"),  # type: ignore[list-item,arg-type]
    ],
)
def test_fields_that_do_not_fit_are_named(plan: _plan.Plan, place: str) -> None:
    with pytest.raises(InvalidArgumentError, match=place):
        _plan.encode(plan)

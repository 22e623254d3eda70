"""The plan codec: expanded from plan.inc, strict in both directions, and what it promises about versions."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import struct
import sys
import types
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_rt import FormatError, InvalidArgumentError, _plan, _plan_records

CSRC = Path(__file__).parents[2] / "csrc"


def module(path: Path) -> types.ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


generate = module(CSRC / "artifact" / "generate_records.py")


def test_the_built_records_are_those_of_plan_inc() -> None:
    text = generate.render((CSRC / "artifact" / "plan.inc").read_text(), "plan.inc")
    assert Path(_plan_records.__file__).read_text() == text, "build again: pip install -e ."


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[typing.Any, typing.Any]:
    """The records that the C++ test of versions has, in their first and second."""
    folder = tmp_path_factory.mktemp("records")
    for number in (1, 2):
        generate.write(CSRC / "tests" / f"records_{number}.inc", folder / f"records_{number}.py")
    found = module(folder / "records_1.py"), module(folder / "records_2.py")
    assert (found[0].PLAN_VERSION, found[1].PLAN_VERSION) == (1, 2)
    return found


def encode_as(plan: typing.Any) -> bytes:
    out = bytearray()
    _plan._codec(type(plan)).write(plan, out, "plan")
    return bytes(out)


def decode_as(records: typing.Any, data: bytes) -> typing.Any:
    return _plan.decode_as(records.Plan, data, records.PLAN_VERSION, records.SINCE)


def test_an_older_plan_gets_initial_values(versions: tuple[typing.Any, typing.Any]) -> None:
    first, second = versions
    data = encode_as(first.Plan(things=[first.Thing("a", first.Colour.GREEN), first.Thing("b")], last=99))
    plan = decode_as(second, data)
    assert plan == second.Plan(version=1, things=[second.Thing("a", second.Colour.GREEN), second.Thing("b")], last=99)
    thing = plan.things[0]
    assert (thing.weight, thing.edge, thing.note, thing.tags, thing.marks) == (7, second.Colour.GREEN, "none", [], [])


def test_a_plan_that_is_not_of_its_version_is_refused(versions: tuple[typing.Any, typing.Any]) -> None:
    first, second = versions
    older = encode_as(first.Plan(things=[first.Thing("a")]))
    newer = encode_as(second.Plan(things=[second.Thing("a", second.Colour.BLUE, tags=[4], marks=[second.Mark()])]))
    assert encode_as(decode_as(second, newer)) == newer
    with pytest.raises(FormatError, match="version 2 and this runtime reads up to 1"):
        decode_as(first, newer)
    with pytest.raises(FormatError, match="version is 0"):
        decode_as(first, b"\0\0\0\0" + older[4:])
    for records, data, version in ((first, newer, 1), (second, newer, 1), (second, older, 2)):
        with pytest.raises(FormatError, match="damaged"):
            decode_as(records, struct.pack("<I", version) + data[4:])
    blue = bytearray(older)
    blue[4 + 4 + 4 + 1] = second.Colour.BLUE  # version, count, "a" and its length; then the colour
    for records in versions:
        with pytest.raises(FormatError, match="is 2, which is no Colour of plan version 1"):
            decode_as(records, bytes(blue))


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
        names = re.findall(r"(?:^|, )(\d+) ([a-z_]+)", re.sub(r"\([^)]*\)", "", listed[1]))
        assert names == [(str(member.value), member.name.lower()) for member in enum], name


def strategy(hint: typing.Any) -> st.SearchStrategy[typing.Any]:
    if typing.get_origin(hint) is list:
        return st.lists(strategy(typing.get_args(hint)[0]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return record_strategy(hint)
    if typing.get_origin(hint) is None:
        return st.sampled_from(hint)
    return {
        "u8": st.integers(0, 255),
        "u32": st.integers(0, 2**32 - 1),
        "i64": st.integers(-(2**63), 2**63 - 1),
        "f64": st.floats(allow_nan=False),
        "str": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    }[typing.get_args(hint)[1]]


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
        exprs=[_plan.Expr(_plan.ExprOp.CONSTANT, 5)],
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

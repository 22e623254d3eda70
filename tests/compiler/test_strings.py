"""Strings that only a run knows, through the real runtime: rows of UTF-8 bytes, padded with zeros."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.importers.onnx import import_onnx
from maas_rt.compiler.importers.onnx._regex import PatternError, automaton
from maas_rt.compiler.importers.onnx.ops.strings import case_table
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import maas_rt
from tests.compiler.test_import_onnx import model, node

S, F, I64 = TensorProto.STRING, TensorProto.FLOAT, TensorProto.INT64


def run(proto: onnx.ModelProto, *runs: dict[str, Any], reference: bool = False) -> list[dict[str, np.ndarray]]:
    """Compile once; the outputs of each run, strings decoded, the same as ONNX Runtime's (or the reference's)."""
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    whole = onnx.shape_inference.infer_shapes(proto).SerializeToString()
    session: Any = (
        ReferenceEvaluator(proto)
        if reference
        else onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"])
    )
    out = []
    for inputs in runs:
        arrays = {name: np.asarray(x) for name, x in inputs.items()}
        texts = {name: x for name, x in arrays.items() if x.dtype.kind in "OU"}
        given = {name: maas_rt.encode_strings(x) if name in texts else x for name, x in arrays.items()}
        got = program.run(given)
        native = {name: x.astype(object) if name in texts else x for name, x in arrays.items()}
        names = [o.name for o in proto.graph.output]
        for name, want in zip(names, session.run(None, native), strict=True):
            if want.dtype.kind in "OU":
                np.testing.assert_array_equal(got[name], maas_rt.encode_strings(want), err_msg=name)
                got[name] = maas_rt.decode_strings(got[name])
            else:
                np.testing.assert_array_equal(got[name], want, err_msg=name)
        out.append(got)
    return out


def test_bytes_and_back() -> None:
    words = np.array([["é", ""], ["abc", "日本"]], dtype=object)
    rows = maas_rt.encode_strings(words)
    assert rows.shape == (2, 2, 6)
    np.testing.assert_array_equal(maas_rt.decode_strings(rows), words)
    assert maas_rt.encode_strings(np.empty((0, 2), object)).shape == (0, 2, 1)
    assert maas_rt.decode_strings(maas_rt.encode_strings("one")).item() == "one"
    with pytest.raises(ValueError, match="zero byte"):
        maas_rt.encode_strings(["a\0b"])
    with pytest.raises(TypeError, match="not int"):
        maas_rt.encode_strings([1])
    with pytest.raises(ValueError, match="uint8"):
        maas_rt.decode_strings(np.zeros(3, np.float32))  # type: ignore[arg-type]


def test_comparing_joining_and_moving() -> None:
    proto = model(
        [
            node("StringConcat", "x y", "joined"),
            node("Equal", "x y", "same"),
            node("Transpose", "joined", "turned"),
            node("Gather", "turned which", "rows"),
            node("Identity", "rows", "again"),
            node("Concat", "rows again", "twice", axis=1),
            node("Reshape", "twice flat", "list"),
        ],
        {"x": (S, ["n", 3]), "y": (S, [1, 3])},
        ["joined", "same", "list"],
        {"which": np.array([2, 0]), "flat": np.array([-1])},
        opset=20,
    )
    x = np.array([["a", "bc", ""], ["naïve", "z", "same"]], dtype=object)
    y = np.array([["a", "", "same"]], dtype=object)
    # Not ONNX Runtime, whose Concat empties strings that another input of it shares.
    got = run(proto, {"x": x, "y": y}, {"x": x[:1], "y": y}, reference=True)[0]
    assert got["joined"][1].tolist() == ["naïvea", "z", "samesame"]
    assert got["list"].tolist() == ["same", "samesame", "same", "samesame", "aa", "naïvea", "aa", "naïvea"]


def test_choosing_and_counting() -> None:
    proto = model(
        [node("Where", "c x y", "chosen"), node("Shape", "chosen", "shape"), node("Size", "x", "size")],
        {"c": (TensorProto.BOOL, ["n", 1]), "x": (S, ["n", 3]), "y": (S, [1, 3])},
        ["chosen", "shape", "size"],
        opset=20,
    )
    x = np.array([["a", "bc", ""], ["naïve", "z", "same"]], dtype=object)
    y = np.array([["a longer one", "", "日本"]], dtype=object)
    run(proto, {"c": np.array([[True], [False]]), "x": x, "y": y}, {"c": np.array([[False]]), "x": x[:1], "y": y})


@pytest.mark.parametrize(
    ("kinds", "said"),
    [((S, F), "of strings to numbers: convert them before"), ((I64, S), "of numbers to strings: write them")],
)
def test_casts_of_strings_are_refused(kinds: tuple[int, int], said: str) -> None:
    proto = model([node("Cast", "x", "y", to=kinds[1])], {"x": (kinds[0], ["n"])}, ["y"])
    with pytest.raises(maas_rt.UnsupportedOperatorError, match=said):
        import_onnx(proto)


@pytest.mark.parametrize("sensitive", [0, 1])
@pytest.mark.parametrize("change", ["LOWER", "UPPER", "NONE"])
def test_normalising(change: str, sensitive: int) -> None:
    attributes = {
        "case_change_action": change,
        "is_case_sensitive": sensitive,
        "stopwords": ["Monday", "the"],
        "locale": "C",
    }
    proto = model([node("StringNormalizer", "x", "y", **attributes)], {"x": (S, ["n"])}, ["y"])
    run(
        proto,
        {"x": np.array(["monday", "Tuesday", "THE", "the", "Monday", "x1"], dtype=object)},
        {"x": np.array(["Monday", "the"], dtype=object)},
        {"x": np.array(["É the", "straße", "МИР"], dtype=object)},  # the locale C has no case beyond ASCII
    )


@pytest.mark.parametrize("change", ["LOWER", "UPPER"])
def test_every_case(change: str) -> None:
    """Characters of two and three bytes against ONNX Runtime; one whose other case has another number of bytes is refused."""
    attributes = {"case_change_action": change, "locale": "C.UTF-8", "stopwords": ["Ünder"], "is_case_sensitive": 0}
    proto = model([node("StringNormalizer", "x", "y", **attributes)], {"x": (S, ["n"])}, ["y"])
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    for each in ["\u0130", "\u212a", "\u023a", "\uff21", "\U00010400"]:
        with pytest.raises(maas_rt.InvalidArgumentError, match="whose other case it does not know"):
            program.run({"x": maas_rt.encode_strings([f"ok {each}"])})
    tables = [case_table(each)[0] for each in {change, "LOWER"}]
    scripts = [
        (0x80, 0x530),
        (0x531, 0x588),
        (0x5D0, 0x700),
        (0x1E00, 0x1EFA),
        (0x1F00, 0x1F16),
        (0x3041, 0x3100),
        (0x4E00, 0x4E80),
        (0xAC00, 0xAC40),
    ]
    known = [
        chr(k)
        for first, end in scripts
        for k in range(first, end)
        if k >= 0x2000 or all(t[k] != 0xFFFF for t in tables)
    ]
    assert len(known) > 1900
    run(proto, {"x": np.array([*known, "Straße 😀 ÜNDER", "ünDER", "ÀB日cД"], dtype=object)})


@pytest.mark.parametrize("attributes", [{}, {"maxsplit": 1}, {"delimiter": ", "}, {"delimiter": "aa", "maxsplit": 2}])
def test_splitting(attributes: dict[str, Any]) -> None:
    proto = model([node("StringSplit", "x", "y counts", **attributes)], {"x": (S, ["n", 2])}, ["y", "counts"], opset=20)
    x = [["one two", " three\tfour  five "], ["", "a, b, , c"], ["aaaaa", ", "]]
    # The reference: ONNX Runtime takes nothing but spaces for white space.
    run(proto, {"x": np.array(x, dtype=object)}, {"x": np.array(x[:1], dtype=object)}, reference=True)


PATTERNS = [
    r"www\.[\w.-]+\.\bcom\b",
    r"(\W|^)[\w.\-]{0,5}@(yahoo|gmail)\.com(\W|$)",
    r"a*b+?c{2,3}|x.y",
    r"[^a-c]+",
    r"\d+\.\d*",
    r"(ab|a)(bc|c)?",
    r"",
    r".*é.*",
    r"\B.",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    table, accepts = automaton(pattern)
    wanted = re.compile(pattern, re.ASCII)
    draw = random.Random(0)
    texts = ["www.google.com", "a@gmail.com", "x.y", " x@yahoo.com,", "", "abbc"]
    texts += ["".join(draw.choices("abcxyz09.@- _é€", k=draw.randint(0, 7))) for _ in range(500)]
    for text in texts:
        state = 0
        for byte in text.encode():
            state = table[state, byte]
        assert bool(accepts[state]) == bool(wanted.fullmatch(text)), text


def test_matching() -> None:
    proto = model(
        [node("RegexFullMatch", "x", "y", pattern=r"(\w+)@[a-z]+\.(com|org)")], {"x": (S, ["n"])}, ["y"], opset=20
    )
    run(proto, {"x": np.array(["me@site.com", "me@site.com ", "é@site.org", ""], dtype=object)})
    for pattern in (r"(a)\1", r"a(?=b)", r"(?i)a", r"[é-ü]"):
        with pytest.raises(PatternError):
            automaton(pattern)
        proto.graph.node[0].attribute[0].s = pattern.encode()
        with pytest.raises(maas_rt.UnsupportedOperatorError, match="pattern"):
            import_onnx(proto)
    with pytest.raises(ValueError, match="not valid"):
        automaton("(")


def test_looking_up() -> None:
    words = {"keys_strings": ["a", "bb", "é"]}
    for values in (
        {"values_int64s": [3, 1, 2], "default_int64": -7},
        {"values_floats": [0.5, 1.5, 2.5]},
        {"values_strings": ["x", "longer", ""], "default_string": "none"},
    ):
        made = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", **words, **values)
        proto = model([made], {"x": (S, ["n", 2])}, ["y"])
        proto.opset_import.add(domain="ai.onnx.ml", version=3)
        proto.graph.output[0].type.tensor_type.elem_type = {"i": I64, "f": F, "s": S}[next(iter(values))[7]]
        run(proto, {"x": np.array([["bb", "a"], ["é", "c"], ["", "b"]], dtype=object)})


def test_verification_draws_strings_and_arithmetic_refuses_them() -> None:
    proto = model([node("StringConcat", "x y", "z")], {"x": (S, ["n"]), "y": (S, ["n"])}, ["z"], opset=20)
    proto = onnx.shape_inference.infer_shapes(proto)
    assert compile_model(proto).manifest["verified"]["status"] == "passed"
    bad = model([node("Add", "x x", "y"), node("Relu", "x", "z")], {"x": (S, ["n"])}, ["y", "z"])
    with pytest.raises(maas_rt.Error, match="Add"):
        import_onnx(bad)

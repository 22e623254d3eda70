"""JSON tensors: what is read and written, to the last bit, and every way in which a document can be wrong."""

from __future__ import annotations

import json
import math
import random
import sys
import threading
import time
from collections.abc import Sequence
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_rt import InvalidArgumentError, _native
from maas_rt.service._datatypes import BYTES, OF_RUNTIME, Datatype
from maas_rt.service._errors import ServiceError
from maas_rt.service._json import JsonData, parse_data, parse_document, write_data
from maas_rt.service._tensors import check_shape

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are made by ml_dtypes")

_INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
_SHORT = ["float16", "bfloat16"]


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _parsed(data: bytes | str, datatype: Datatype, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    raw = data.encode() if isinstance(data, str) else data
    check_shape(shape, datatype, "input 'x'")
    return parse_data(JsonData(memoryview(raw)), datatype, shape, "input 'x'")


def _read(data: bytes | str, dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    return _parsed(data, OF_RUNTIME[dtype], shape).view(_dtype(dtype))


def _refused(data: bytes | str, dtype: str, *shape: int) -> str:
    with pytest.raises(ServiceError) as caught:
        _read(data, dtype, *shape)
    assert str(caught.value).startswith("input 'x'") and str(caught.value).isprintable()
    return str(caught.value)


def _strings(data: bytes | str, *shape: int) -> list[bytes]:
    array = _parsed(data, BYTES, shape)
    assert array.shape == shape
    return array.ravel().tolist()


def _write(array: Any) -> str:
    datatype = OF_RUNTIME[array.dtype.name]
    bits = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return write_data(bits, datatype, "output 'y'").decode()


def _write_strings(raw: list[bytes]) -> bytes:
    return write_data(np.array([*raw, None], object)[:-1], BYTES, "output 'y'")


def _bits(array: Any) -> list[int]:
    return array.view(f"u{array.itemsize}").tolist()


# ---- integers and bools ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", _INTEGERS)
def test_integers_are_exact_to_their_limits(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = [info.min, info.min + 1, -0, 0, 1, info.max - 1, info.max]
    array = _read(json.dumps(values), dtype, len(values))
    assert array.dtype == dtype and array.tolist() == values
    assert json.loads(_write(array)) == values
    assert _read("[-0]", dtype, 1).tolist() == [0]
    for value in (info.min - 1, info.max + 1, 2**64, 2**64 + 1, 10**20 - 1, 10**20, -(2**64), 10**400):
        assert f"does not fit into {dtype} (element 1)" in _refused(f"[0, {value}]", dtype, 2)


@pytest.mark.parametrize("dtype", [*_INTEGERS, "bool"])
@pytest.mark.parametrize("word", ["1.0", "1e0", "1E5", "-1.5", "null", '"1"', '"NaN"', "{}"])
def test_what_is_no_integer_and_no_bool(dtype: str, word: str) -> None:
    assert f"is no {dtype} value (element 1)" in _refused(f"[{'false' if dtype == 'bool' else 0}, {word}]", dtype, 2)


def test_bools_are_words_and_integers_are_none() -> None:
    array = _read("[true,false , true]", "bool", 3)
    assert array.dtype == bool and array.tolist() == [True, False, True]
    assert _write(array) == "[true,false,true]"
    assert "1 is no bool value (element 0)" in _refused("[1]", "bool", 1)
    assert "true is no int64 value (element 0)" in _refused("[true]", "int64", 1)
    assert "true is no float32 value (element 0)" in _refused("[true]", "float32", 1)
    for word in ("tru", "truefalse", "True", "t"):
        assert f"{word} is not JSON" in _refused(f"[{word}]", "bool", 1)


# ---- floats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_at_their_limits(dtype: str) -> None:
    info = ml_dtypes.finfo(_dtype(dtype))
    values = [float(v) for v in (info.max, info.min, info.tiny, info.smallest_subnormal, -info.smallest_subnormal)]
    array = _read(json.dumps(values), dtype, 5)
    assert array.dtype == _dtype(dtype) and array.astype(float).tolist() == values
    assert _bits(_read(_write(array), dtype, 5)) == _bits(array)
    sign = 1 << (8 * array.itemsize - 1)
    assert _bits(_read("[0, -0, -0.0, 1e-400, -1e-400, 0e999999999999, -0.0e5]", dtype, 7)) == [
        *(0, sign, sign, 0, sign, 0, sign)
    ]
    for word in ("1e400", "-1e400", "1e99999999999999999999", "9" * 5000, "1" + "0" * 320 + ".5"):
        assert f"does not fit into {dtype} (element 0)" in _refused(f"[{word}]", dtype, 1)


@pytest.mark.parametrize(
    ("dtype", "largest", "too_large"),
    [
        ("float16", "65519.99999999999999999999", "65520"),
        ("float32", "3.4028235677973366e38", "-1e39"),
        ("float32", "340282356779733661637539395458142568447.99", "340282356779733661637539395458142568448"),
        ("bfloat16", "339617752923046005526922703901628039167.9", "339617752923046005526922703901628039168"),
        ("float64", "1.7976931348623158e308", "1.7976931348623159e308"),
    ],
)
def test_what_rounds_to_infinity_is_refused_by_name(dtype: str, largest: str, too_large: str) -> None:
    array = _read(f"[{largest}]", dtype, 1)
    assert array[0] == ml_dtypes.finfo(_dtype(dtype)).max
    assert f"does not fit into {dtype} (element 0)" in _refused(f"[{too_large}]", dtype, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_numbers_lack_is_text(dtype: str) -> None:
    array = _read('["NaN", "Infinity", "-Infinity", "\\u004eaN"]', dtype, 4)
    assert math.isnan(array[0]) and math.isnan(array[3])
    assert array[1:3].astype(float).tolist() == [math.inf, -math.inf]
    assert _write(array) == '["NaN","Infinity","-Infinity","NaN"]'
    for word in ('"nan"', '"+Infinity"', '"1"', '""', '"' + "N" * 1000 + '"'):
        assert "is no float" in _refused(f"[{word}]", dtype, 1).replace("bfloat", "float")
    for word in ("NaN", "Infinity", "-Infinity"):
        assert f'{word} is not JSON: send "NaN"' in _refused(f"[{word}]", dtype, 1)


@pytest.mark.parametrize("word", ["01", "-01", "00.5", "+1", ".5", "-.5", "1.", "1.e5", "1e", "1e+", "-", "--1", "1f",
                                  "0x1p3", "1_0", "1 2", "inf", "nan", "nan(1)", "infinity", "1,5.", "\u0661"])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_numbers_that_are_no_json(dtype: str, word: str) -> None:
    assert "is not JSON" in _refused(f"[{word}]", dtype, word.count(",") + 1)


def test_a_float_is_rounded_once() -> None:
    """1 + 2**-24 and a little: the nearest double is the middle between two floats, which rounds the other way."""
    assert _read("[1.000000059604644775390625]", "float32", 1)[0] == 1
    assert _read("[1.00000005960464477539062500000001]", "float32", 1)[0] == np.nextafter(np.float32(1), np.float32(2))
    assert _read("[16777217, 16777217.0000000001]", "float32", 2).tolist() == [16777216, 16777218]


def _finite(dtype: str) -> np.ndarray[Any, Any]:
    """All values of a 16-bit type that are finite and not negative, in order."""
    infinity = {"float16": 0x7C00, "bfloat16": 0x7F80}[dtype]
    return np.arange(infinity, dtype=np.uint16).view(_dtype(dtype))


@pytest.mark.parametrize("dtype", _SHORT)
@pytest.mark.parametrize("sign", ["", "-"])
def test_halves_are_correctly_rounded_at_every_middle(dtype: str, sign: str) -> None:
    """Every number midway between two neighbours, and a little to both sides, by less than a double can tell."""
    values = _finite(dtype).astype(float).tolist()
    texts, expected = [], []
    with localcontext() as context:
        context.prec = 300
        for bits, (below, above) in enumerate(pairwise(values)):
            middle = (Decimal(below) + Decimal(above)) / 2
            little = middle.scaleb(-150)
            texts += [str(middle - little), str(middle), str(middle + little)]
            expected += [bits, bits + bits % 2, bits + 1]
    array = _read("[" + ",".join(sign + text for text in texts) + "]", dtype, len(texts))
    assert (array.view(np.uint16) & 0x7FFF).tolist() == expected
    assert ((array.view(np.uint16) >> 15) == bool(sign)).all()


@pytest.mark.parametrize("dtype", _SHORT)
def test_all_halves_are_read_back_from_the_fewest_digits(dtype: str) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).view(_dtype(dtype))
    text = _write(patterns)
    again = _read(text, dtype, 1 << 16)
    nan = np.isnan(patterns.astype(np.float32))
    assert (np.isnan(again.astype(np.float32)) == nan).all()
    assert (again.view(np.uint16) == patterns.view(np.uint16))[~nan].all()
    # Neither of the two numbers around a value that have a digit less reads back to it; whole ones may be exact.
    values = _finite(dtype).astype(float).tolist()
    shorter, count = [], 0
    for value, word in zip(values, text[1:-1].split(",")[: len(values)], strict=True):
        assert "." in word or "e" in word
        _, digits, exponent = Decimal(word).normalize().as_tuple()
        assert isinstance(exponent, int)
        if len(digits) == 1 or word == f"{value:.1f}":
            shorter += ["0", "0"]
            continue
        less = int(Decimal(value).scaleb(-exponent - 1))
        shorter += [
            f"{each}e{exponent + 1}" for each in (less, min(less + 1, int(values[-1] / 10.0 ** (exponent + 1))))
        ]
        count += 1
    assert count > 10_000
    array = _read("[" + ",".join(shorter) + "]", dtype, len(shorter)).view(np.uint16).reshape(-1, 2)
    patterns_here = np.arange(len(values), dtype=np.uint16)
    same = (array == patterns_here[:, None]).any(1)
    assert np.flatnonzero(same).tolist() == [0]  # 0 has one digit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_bits_are_read_back(dtype: str) -> None:
    size = np.dtype(dtype).itemsize
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    patterns = np.frombuffer(np.random.default_rng(seed).bytes(size * 50_000), dtype)
    patterns = patterns[np.isfinite(patterns)]
    text = _write(patterns)
    assert _bits(_read(text, dtype, patterns.size)) == _bits(patterns)
    for word, value in zip(text[1:-1].split(",")[:2000], patterns[:2000].tolist(), strict=False):
        shortest = Decimal(str(np.dtype(dtype).type(value)))
        assert len(Decimal(word).normalize().as_tuple().digits) == len(shortest.normalize().as_tuple().digits) or (
            int(word.removesuffix(".0")) == value  # a whole number as it is
        )
    assert np.array(json.loads(text)).astype(dtype).tobytes() == patterns.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_decimals_are_rounded_as_numpy_rounds_them(dtype: str) -> None:
    rng = random.Random(7)
    limit = 30 if dtype == "float32" else 300
    words = []
    for _ in range(5000):
        digits = "".join(rng.choices("0123456789", k=rng.randrange(1, 30)))
        whole = str(int(digits[: rng.randrange(1, 3)]))
        words.append(f"{rng.choice(['', '-'])}{whole}.{digits}e{rng.randrange(-limit, limit)}")
    expected = np.array([np.float64(word) for word in words])
    array = _read("[" + ", ".join(words) + "]", dtype, len(words))
    if dtype == "float64":
        assert array.tobytes() == expected.tobytes()
    else:  # by way of a double, which is off in no case of these
        assert array.tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_quick_way_and_the_long_one_give_the_same_bits(dtype: str) -> None:
    """Numbers without an exponent and of at most 19 digits are read by arithmetic, others by the standard library."""
    rng = random.Random(11)
    words = ["0.0", "-0.0", "0", "9007199254740993", "9007199254740992.5"[:18], "9" * 19, "0." + "0" * 17 + "1"]
    for _ in range(3000):
        digits = "".join(rng.choices("0123456789", k=rng.randrange(1, 19)))
        at = rng.randrange(len(digits))
        words.append(f"{rng.choice(['', '-'])}{int(digits[:at] or '0')}.{digits[at:]}")
    for value in np.random.default_rng(11).uniform(1, 1000, 3000).astype(np.float32):
        middle = (Decimal(float(value)) + Decimal(float(np.nextafter(value, np.float32(2000))))) / 2
        words.append(str(middle)[:20])  # the middle between two floats, or just below it
        words.append(str(Decimal(str(middle)[:20]).next_plus())[:20])
    if dtype == "float16":
        words = [word for word in words if abs(float(word)) < 65000]
    plain = _read("[" + ",".join(words) + "]", dtype, len(words))
    long = _read("[" + ",".join(word + "e0" for word in words) + "]", dtype, len(words))
    assert plain.tobytes() == long.tobytes()


def test_floats_stay_floats_and_zero_keeps_its_sign() -> None:
    assert _write(np.array([1, -0.0, 0.0, 1e22, 1e-7, 0.1, 123456789], np.float64)) == (
        "[1.0,-0.0,0.0,1e+22,1e-07,0.1,123456789.0]"
    )
    assert _write(np.array([0.1, 16777216, 1e38, 3.4028235e38], np.float32)) == "[0.1,16777216.0,1e+38,3.4028235e+38]"
    assert _write(np.array([0.1, 65504, 6e-8, 1], np.float16)) == "[0.1,65504.0,6e-08,1.0]"
    assert _write(np.array([0.1, 3e38], _dtype("bfloat16"))) == "[0.1,3e+38]"


# ---- lists and shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([], [5]),
        ([1], [5]),
        ([0], []),
        ([4], [1, 2, 3, 4]),
        ([2, 3], [1, 2, 3, 4, 5, 6]),
        ([2, 3], [[1, 2, 3], [4, 5, 6]]),
        ([1, 1, 2], [[[1, 2]]]),
        ([2, 1, 2], [[[1, 2]], [[3, 4]]]),
        ([0, 3], []),
        ([2, 0], [[], []]),
        ([2, 0], []),
        ([2, 0, 3], [[], []]),
        ([1, 2, 0], [[[], []]]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "strings"])
def test_flat_and_nested_data(shape: list[int], data: list[Any], dtype: str) -> None:
    for text in (json.dumps(data), json.dumps(data, indent=3), json.dumps(data, separators=(",", ":"))):
        if dtype == "strings":
            quoted = "".join(f'"{c}"' if c.isdigit() else c for c in text)
            assert _strings(quoted, *shape) == [c.encode() for c in text if c.isdigit()]
        else:
            array = _read(text, dtype, *shape)
            assert array.shape == tuple(shape) and array.ravel().tolist() == np.array(data, object).ravel().tolist()


@pytest.mark.parametrize(
    ("shape", "data", "sentence"),
    [
        ([3], "[1,2]", "has 2 elements, its shape [3] needs 3"),
        ([3], "[1]", "has 1 element, its shape [3] needs 3"),
        ([3], "[]", "has 0 elements, its shape [3] needs 3"),
        ([], "[]", "has 0 elements, its shape [] needs 1"),
        ([3], "[1,2,3,4]", "has more than 3 elements, its shape [3] needs 3"),
        ([0], "[1]", "has more than 0 elements"),
        ([2, 0], "[[],[1]]", "has more than 0 elements"),
        ([2, 2], "[[1,2],[3]]", "the list that ends before element 3 has 1 and must have 2"),
        ([2, 2], "[[1,2,3],[4]]", "the list around element 2 has more than 2 and must have 2"),
        ([2, 2], "[[1,2]]", "the list that ends before element 2 has 1 and must have 2"),
        ([2, 2], "[[1,2],[3,4],[5,6]]", "the list around element 4 has more than 2"),
        ([2, 2], "[[],[]]", "the list that ends before element 0 has 0"),
        ([2, 2], "[[[1,2],[3,4]]]", "is neither flat nor nested as its shape [2, 2] is"),
        ([2, 2], "[[1],[2],[3],[4]]", "is neither flat nor nested"),
        ([2, 2, 1], "[[1,2],[3,4]]", "is neither flat nor nested"),
        ([4], "[[1,2],[3,4]]", "it has lists within a list"),
        ([], "[[1]]", "is neither flat nor nested"),
        ([1, 3], "[[1.0],2.0,3.0]", "mixes values and lists at one level"),
        ([1, 3], "[1.0,[2.0],3.0]", "mixes values and lists"),
        ([2, 2], '[[1,2],"["]', "mixes values and lists"),
        ([2, 2], "[[1,2],[[3],4]]", "mixes values and lists"),
        ([1], "5", '"data" must be a list'),
        ([1], '"a"', '"data" must be a list'),
        ([1], '{"a":[1]}', '"data" must be a list'),
        ([1], "", '"data" must be a list'),
        ([1], "[{}]", "{ is no float32 value (element 0)"),
        ([3], "[1,2,]", "] is not JSON (element 2)"),
        ([3], "[,1,2]", ", is not JSON (element 0)"),
        ([2], "[1,,2]", ", is not JSON (element 1)"),
        ([2], "[1,2}", "} before element 2, where a comma or the end"),
        ([2], "[1:2]", ": before element 1, where a comma"),
        ([2], "[1,2]]", "] before element 2, where a comma"),
        ([2], "[1,2", "it ends before its list does"),
        ([2], "[1,", "it ends before its list does"),
        ([2], "[", "it ends before its list does"),
        ([1, 2], "[[1,2]", "it ends before its list does"),
        ([1, 2], "[[1,2],]", "neither flat nor nested"),
        ([2, 1], "[[1] [2]]", "[ before element 1, where a comma"),
    ],
)
def test_lists_that_are_not_as_the_shape_is(shape: list[int], data: str, sentence: str) -> None:
    assert sentence in _refused(data, "float32", *shape)


def test_a_message_cites_little_and_what_can_be_printed() -> None:
    assert len(_refused("[" + "7" * 10_000 + "x]", "float32", 1)) < 120
    assert "(element 1)" in _refused('[1, "' + "é" * 10_000 + '"]', "float32", 2)
    assert r"\x00" in _refused(b"[1\x00]", "float32", 1)
    assert r"\xff" in _refused(b"[\xff]", "float32", 1)
    assert "a control character" in _refused(b'["\n"]', "float32", 1)


def test_a_shape_beyond_the_data_takes_no_memory() -> None:
    assert "has 3 elements" in _refused("[1,2,3]", "float64", 2**50)
    assert "beyond any tensor's" in _refused("[1,2,3]", "float64", 2**62)
    assert "beyond any tensor's" in _refused("[]", "float64", 0, 10**30)
    with pytest.raises(ServiceError, match="has 1 element, its shape"):
        _strings('["a"]', 2**50)


def test_what_is_strided_or_swapped_is_written_in_row_major_order() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    assert json.loads(_write(array.T)) == [0, 3, 1, 4, 2, 5]
    assert json.loads(_write(array[:, ::-2])) == [2, 0, 5, 3]
    assert _write(np.array(2, np.float32)) == "[2.0]"
    assert _write(np.zeros((3, 0), np.int8)) == "[]"


# ---- strings ---------------------------------------------------------------------------------------------------------


def test_strings_with_every_escape() -> None:
    assert _strings(r'["\"\\\/\b\f\n\r\t", "\u0041\u00e9\u20ac\ud83d\ude00", "é€😀", "", "\u0000"]', 5) == [
        b'"\\/\b\f\n\r\t',
        "Aé€😀".encode(),
        "é€😀".encode(),
        b"",
        b"\0",
    ]
    for word in ("1", "null", "true", "[]"):
        _strings_refused(f'["a", {word}]', "element 1" if word != "[]" else "mixes")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (rb'"\ud800"', "half of a surrogate pair"),
        (rb'"\udc00"', "half of a surrogate pair"),
        (rb'"\ud800\ud800"', "half of a surrogate pair"),
        (rb'"\ud83d\ude0"', "half of a surrogate pair"),
        (rb'"\a"', "an unknown escape"),
        (b'"\t"', "a control character"),
        (b'"\x80"', "bytes that are no UTF-8"),
        (b'"\xed\xb0\x80"', "bytes that are no UTF-8"),
        (b'"a', "it ends before its list does"),
        (b'"a"b', "is no"),
    ],
)
def test_strings_that_are_no_json(word: bytes, sentence: str) -> None:
    _strings_refused(b'["abcdefghij", ' + word + b"]", sentence)


def _strings_refused(data: bytes | str, sentence: str) -> None:
    with pytest.raises(ServiceError, match=sentence) as caught:
        _strings(data, 2)
    assert str(caught.value).startswith("input 'x'") and str(caught.value).isprintable()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=20), st.booleans())
def test_strings_are_those_of_the_standard_library(texts: list[str], ascii_only: bool) -> None:
    raw = [text.encode() for text in texts]
    assert _strings(json.dumps(texts, ensure_ascii=ascii_only), len(texts)) == raw
    written = _write_strings(raw)
    assert json.loads(written) == texts
    assert _strings(written, len(texts)) == raw


def test_strings_that_json_cannot_say_are_refused_by_element() -> None:
    with pytest.raises(ServiceError, match="output 'y': element 1 is no UTF-8"):
        _write_strings([b"a", b"\xff"])
    with pytest.raises(ServiceError, match="output 'y': element 0 is no UTF-8"):
        _write_strings([b"\xc3", b"\xa9"])  # one character over two elements
    for offsets, element in (([0, 3], 0), ([0, 2, 1], 1)):
        with pytest.raises(InvalidArgumentError, match=f"element {element} are not in order"):
            _native.json_write_strings(b"ab", np.array(offsets), "output 'y'")


# ---- the GIL ---------------------------------------------------------------------------------------------------------

_FLOATS = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
_LIST = b"[" + b",".join(b"%.7g" % value for value in _FLOATS.tolist()) + b"]"
_BODY = b'{"inputs":[{"name":"x","data":' + _LIST + b"}]}"
_TEXT, _OFFSETS = b"AAAA" * 100_000, np.arange(0, 400_001, 4)


@pytest.mark.parametrize(
    "work",
    [
        lambda: parse_document(_BODY),
        lambda: parse_data(JsonData(memoryview(_LIST)), OF_RUNTIME["float32"], [_FLOATS.size], "x"),
        lambda: write_data(_FLOATS, OF_RUNTIME["float32"], "y"),
        lambda: _native.json_write_strings(_TEXT, _OFFSETS, "y"),
    ],
    ids=["scan", "read", "write", "write_strings"],
)
def test_other_threads_run_while_much_is_read_or_written(work: Any) -> None:
    """Python takes the GIL from nobody within the test's time: a thread counts on only where it is given back."""
    count, ends = 0, False

    def run() -> None:
        nonlocal count
        while not ends:
            count += 1
            time.sleep(0)

    thread = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        for _ in range(1000):
            before = count
            work()
            if count > before:
                break
        assert count > before
    finally:
        ends = True
        sys.setswitchinterval(interval)
        thread.join()

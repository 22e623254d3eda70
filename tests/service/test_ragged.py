"""Requests of different lengths: which run together, what they are padded with, and that each gets its own results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt import InvalidArgumentError, TensorInfo
from maas_rt.service import Repository
from maas_rt.service._calls import Context
from maas_rt.service._config import ModelConfig
from maas_rt.service._core import Core
from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._errors import Kind, kind_of
from maas_rt.service._padding import Pad, Padding
from maas_rt.service._requests import InferRequest, InputTensor
from tests import _tiny
from tests.service.test_repository import _put

BATCHES = "max_batch_size = 32\ninstances = 1\n[dynamic_batching]\nmax_queue_delay_microseconds = 50000\n"
TABLE = np.random.default_rng(5).standard_normal((50, 4)).astype(np.float32)


def embedding() -> bytes:
    """ids [n, s] int64 -> rows [n, s, 4]: each element on its own."""
    b = _tiny.Builder("embedding")
    b.symbol("n", 1, 64), b.symbol("s", 1, 64)
    ids, rows = b.input("ids", ["n", "s"], "int64"), b.value("rows", ["n", "s", 4])
    b.kernel("gather", [b.constant("table", TABLE), ids], [rows], axis=0)
    return b.file(rows)


def masked() -> bytes:
    """x [n, 1, s], mask [n, s, 1] -> total [n, 1, 1], the sum of x where the mask is 1; p [n, 1, s], softmax of x."""
    b = _tiny.Builder("masked")
    b.symbol("n", 1, 64), b.symbol("s", 1, 64)
    x, mask = b.input("x", ["n", 1, "s"]), b.input("mask", ["n", "s", 1])
    total, p = b.value("total", ["n", 1, 1]), b.value("p", ["n", 1, "s"])
    b.kernel("matmul_f32", [x, mask], [total])
    b.kernel("softmax_f32", [x], [p])
    return b.file(total, p)


def _core(root: Path, data: bytes, pad: str, name: str = "m") -> Core:
    path = _put(root / name / "1" / "model.mrt", data)
    (path.parents[1] / "config.toml").write_text(BATCHES + (f"pad = {pad}\n" if pad else ""))
    return Core(Repository(root))


async def _ask(core: Core, **arrays: Any) -> dict[str, Any]:
    tensors = []
    for name, array in arrays.items():
        datatype = DATATYPES["INT64" if array.dtype == np.int64 else "FP32"]
        tensors.append(InputTensor(name, datatype, array.shape, array))
    with core.begin("m", None, Context()) as call:
        return {each.name: each.array for each in (await call.infer(InferRequest(tuple(tensors)))).outputs}


async def _runs(core: Core, asked: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """The answers to what is asked at once, behind a request that keeps the runner busy or not; and the sizes of the batches."""
    before = await _batches(core)
    answers = await asyncio.gather(*(_ask(core, **arrays) for arrays in asked))
    after = await _batches(core)
    return list(answers), sorted(rows for rows, count in after.items() for _ in range(count - before.get(rows, 0)))


async def _batches(core: Core) -> dict[int, int]:
    (told,) = (await core.statistics("m", "1", Context()))["model_stats"]
    return {each["batch_size"]: each["compute_infer"]["count"] for each in told["batch_stats"]}


def _ids(rows: int, length: int) -> dict[str, Any]:
    return {"ids": np.random.default_rng(rows * 100 + length).integers(0, 50, (rows, length))}


async def test_lengths_that_differ_run_together_and_each_gets_its_own(tmp_path: Path) -> None:
    core = _core(tmp_path, embedding(), "{ids = {axis = 1, value = 7, to = [8, 16, 32]}}")
    asked = [_ids(1, 9), _ids(2, 16), _ids(1, 12), _ids(3, 16)]
    answers, sizes = await _runs(core, asked)
    assert sizes == [7]
    for arrays, answer in zip(asked, answers):
        np.testing.assert_array_equal(answer["rows"], TABLE[arrays["ids"]])
        assert answer["rows"].flags.c_contiguous
    # Each with those of its own bucket; above the largest with those of its own length alone.
    asked = [_ids(1, 3), _ids(1, 8), _ids(1, 9), _ids(1, 33), _ids(1, 40), _ids(1, 40)]
    answers, sizes = await _runs(core, asked)
    assert sizes == [1, 1, 2, 2]
    for arrays, answer in zip(asked, answers):
        np.testing.assert_array_equal(answer["rows"], TABLE[arrays["ids"]])


async def test_nothing_is_padded_unasked_or_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = _core(tmp_path, embedding(), "")
    _, sizes = await _runs(core, [_ids(1, 9), _ids(1, 10), _ids(1, 10)])
    assert sizes == [1, 2]
    core = _core(tmp_path, embedding(), "{ids = {to = [16]}}")
    (served,) = core.repository.ready("m")
    shapes: list[tuple[int, ...]] = []
    model, padding = served.scheduler._model, served.scheduler._padding  # type: ignore[union-attr]

    class Noting:
        def run(self, inputs: dict[str, Any], **options: Any) -> Any:
            shapes.append(inputs["ids"].shape)
            return model.run(inputs, **options)

    served.scheduler._model = Noting()  # type: ignore[union-attr, assignment]
    assert padding.values == {"ids": 0}
    await _runs(core, [_ids(1, 10), _ids(1, 10)])
    await _runs(core, [_ids(1, 10)])
    await _runs(core, [_ids(1, 10), _ids(1, 11)])
    assert shapes == [(2, 10), (1, 10), (2, 16)]


async def test_a_mask_makes_padding_harmless(tmp_path: Path) -> None:
    """What is padded is next to nothing to a softmax, and 0 to a sum."""
    core = _core(
        tmp_path, masked(), "{x = {axis = 2, value = -1e30, to = [8, 16]}, mask = {axis = 1, value = 0, to = [8, 16]}}"
    )
    draw = np.random.default_rng(3)
    asked = []
    for length in (1, 5, 8, 7):
        x = draw.integers(-9, 9, (1, 1, length)).astype(np.float32)
        asked.append({"x": x, "mask": draw.integers(0, 2, (1, length, 1)).astype(np.float32)})
    answers, sizes = await _runs(core, asked)
    assert sizes == [4]
    for arrays, answer in zip(asked, answers):
        alone = await _ask(core, **arrays)
        np.testing.assert_array_equal(answer["total"], alone["total"])
        assert answer["total"].ravel() == arrays["x"].ravel() @ arrays["mask"].ravel()
        assert answer["p"].shape == alone["p"].shape == arrays["x"].shape
        np.testing.assert_allclose(answer["p"], alone["p"], rtol=1e-6, atol=1e-7)
    # Lengths that would be one are refused as they are alone, and do not become equal by padding.
    odd = {"x": asked[0]["x"], "mask": asked[1]["mask"]}
    outcomes = await asyncio.gather(*(_ask(core, **arrays) for arrays in (odd, *asked)), return_exceptions=True)
    assert isinstance(outcomes[0], Exception) and kind_of(outcomes[0]) is Kind.BAD_REQUEST
    assert not any(isinstance(each, BaseException) for each in outcomes[1:])


async def test_lengths_that_the_model_does_not_take_are_refused_as_they_are_alone(tmp_path: Path) -> None:
    core = _core(tmp_path, embedding(), "{ids = {to = [8, 64]}}")
    asked = [_ids(1, 0), _ids(1, 65), _ids(1, 5), _ids(1, 6)]
    outcomes = await asyncio.gather(*(_ask(core, **arrays) for arrays in asked), return_exceptions=True)
    for each in outcomes[:2]:
        assert isinstance(each, Exception) and kind_of(each) is Kind.BAD_REQUEST
    assert [each["rows"].shape[1] for each in outcomes[2:]] == [5, 6]  # type: ignore[index]


async def test_a_request_of_more_rows_than_a_batch(tmp_path: Path) -> None:
    core = _core(tmp_path, embedding(), "{ids = {to = [16]}}")
    asked = [_ids(40, 9), _ids(10, 12)]  # 32, and 8 with the other 10
    answers, sizes = await _runs(core, asked)
    assert sizes == [18, 32]
    for arrays, answer in zip(asked, answers):
        np.testing.assert_array_equal(answer["rows"], TABLE[arrays["ids"]])


async def test_one_whose_values_are_refused_fails_no_other(tmp_path: Path) -> None:
    core = _core(tmp_path, embedding(), "{ids = {to = [16]}}")
    asked = [_ids(1, 9), {"ids": np.full((1, 4), 99)}, _ids(1, 12)]
    outcomes = await asyncio.gather(*(_ask(core, **arrays) for arrays in asked), return_exceptions=True)
    assert isinstance(outcomes[1], Exception) and kind_of(outcomes[1]) is Kind.BAD_REQUEST
    for arrays, answer in ((asked[0], outcomes[0]), (asked[2], outcomes[2])):
        np.testing.assert_array_equal(answer["rows"], TABLE[arrays["ids"]])  # type: ignore[index]


def _info(
    name: str, shape: tuple[int | str, ...], dtype: str = "float32", most: int | None = 64, multiple: int = 1
) -> TensorInfo:
    bounds = tuple((1, most) if isinstance(extent, str) else (extent, extent) for extent in shape)
    return TensorInfo(name, dtype, shape, bounds, tuple(multiple if isinstance(e, str) else 1 for e in shape))


def test_two_lengths_are_padded_apart() -> None:
    inputs = [_info("src", ("n", "s", 2)), _info("keys", ("n", "s")), _info("dst", ("n", "t"), "int32")]
    outputs = [_info("y", ("n", "t", 3)), _info("z", ("n", 3, "s")), _info("one", ("n",))]
    to, pads = (4, 8), {}
    for name, value in (("src", 0.5), ("keys", -1), ("dst", 9)):
        pads[name] = Pad(1, value, to)
    padding = Padding.of(inputs, outputs, pads)

    def request(s: int, t: int, rows: int = 1) -> dict[str, Any]:
        return {
            "src": np.ones((rows, s, 2), np.float32),
            "keys": np.ones((rows, s), np.float32),
            "dst": np.ones((rows, t), np.int32),
        }

    assert padding.key(request(3, 5)) == padding.key(request(4, 8)) != padding.key(request(5, 5))
    assert padding.key(request(9, 5)) != padding.key(request(9, 6)) and padding.key(request(9, 5)) == padding.key(
        request(9, 5)
    )
    parts = [(request(3, 5), 0, 1), (request(4, 5, 3), 1, 2)]
    arrays = padding.stacked(parts)
    assert {name: array.shape for name, array in arrays.items()} == {"src": (3, 4, 2), "keys": (3, 4), "dst": (3, 5)}
    np.testing.assert_array_equal(arrays["keys"], [[1, 1, 1, -1], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert (arrays["src"][0, 3] == 0.5).all() and arrays["dst"].dtype == np.int32
    results = {"y": np.zeros((3, 5, 3)), "z": np.arange(36).reshape(3, 3, 4), "one": np.arange(3)}
    first, second = padding.shared_out(results, parts)
    assert first["z"].tolist() == [[[0, 1, 2], [4, 5, 6], [8, 9, 10]]] and second["z"].shape == (2, 3, 4)
    assert first["y"].shape == (1, 5, 3) and second["one"].tolist() == [1, 2]


def test_lengths_that_must_be_multiples() -> None:
    padding = Padding.of([_info("x", ("n", "s"), multiple=4)], [], {"x": Pad(1, 0, (8, 16))})
    keys = [padding.key({"x": np.zeros((1, length), np.float32)}) for length in (4, 8, 6, 12)]
    assert keys[0] == keys[1] and len(set(keys)) == 3  # one of 6 is refused by the model


X = _info("x", ("n", "s"))
PAD = Pad(1, 0, (8,))


@pytest.mark.parametrize(
    ("inputs", "outputs", "pads", "why"),
    [
        ([X], [], {"z": PAD}, "the model has no input 'z'; its inputs are x"),
        ([X], [], {"x": Pad(2, 0, (8,))}, "dimension 2 of input 'x' is none of its 2, from 0 on"),
        ([_info("x", ("n", 5))], [], {"x": PAD}, "dimension 1 of input 'x' is 5, and what is padded must have an extent of its own"),
        ([_info("x", ("n", "2*s"))], [], {"x": PAD}, r"dimension 1 of input 'x' is 2\*s, and what is padded"),
        ([X], [], {"x": Pad(1, 0, (8, 65))}, "dimension 1 of input 'x' is to be padded to 65, and the model takes 1 to 64"),
        ([_info("x", ("n", "s"), most=None, multiple=4)], [], {"x": Pad(1, 0, (6,))}, "padded to 6, and the model takes 1 or more, a multiple of 4"),
        ([_info("x", ("n", "s"), "int8")], [], {"x": Pad(1, 128, (8,))}, "input 'x' is int8, and 128 is no value of that"),
        ([_info("x", ("n", "s"), "int8")], [], {"x": Pad(1, 1.5, (8,))}, "input 'x' is int8, and 1.5 is no value of that"),
        ([_info("x", ("n", "s"), "bool")], [], {"x": PAD}, "input 'x' is bool, and 0 is no value of that"),
        ([X], [], {"x": Pad(1, 10**39, (8,))}, "input 'x' is float32, and 10*0 is no value of that"),
        ([_info("x", ("n", "s"), "float64")], [], {"x": Pad(1, 10**400, (8,))}, "input 'x' is float64, and 1000*0 is no value of that"),
        ([X], [], {"x": Pad(1, True, (8,))}, "input 'x' is float32, and True is no value of that"),
        ([_info("x", ("n", "s"), "float16")], [], {"x": Pad(1, -1e9, (8,))}, "input 'x' is float16, and -1000000000.0 is no value of that"),
        ([X, _info("m", ("n", "s"))], [], {"x": PAD}, "dimension 1 of input 'm' is s, and would have to be padded with the others that have s"),
        ([X, _info("m", ("n", "s", "s"))], [], {"x": PAD, "m": PAD}, "dimension 2 of input 'm' is s, and would have to be padded"),
        ([X, _info("m", ("n", "s+1"))], [], {"x": PAD}, r"dimension 1 of input 'm' is s\+1, and would have to be padded"),
        ([X, _info("m", ("n", "s"))], [], {"x": PAD, "m": Pad(1, 0, (8, 16))}, "dimension 1 of input 'm' is s and that of 'x', which is the same, are padded to other lengths"),
        ([X], [_info("y", ("n", "s+1"))], {"x": PAD}, r"dimension 1 of output 'y' is s\+1, which cannot be cut back"),
        ([X], [_info("y", ("n", "k"))], {"x": PAD}, "dimension 1 of output 'y' is k, of which nothing says whether padding changes it"),
    ],
)  # fmt: skip
def test_what_cannot_be_padded(
    inputs: list[TensorInfo], outputs: list[TensorInfo], pads: dict[str, Pad], why: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        Padding.of(inputs, outputs, pads)
    assert Padding.of(inputs, outputs, {}) == Padding()


def test_values_that_can_be() -> None:
    for dtype, value in (
        ("bool", True),
        ("int64", -1),
        ("uint8", 255),
        ("float32", float("-inf")),
        ("float16", -65504),
        ("bfloat16", -1e38),
        ("float64", 1e300),
        ("float64", 2**70),
        ("float32", float("nan")),
    ):
        assert Padding.of(
            [_info("x", ("n", "s"), dtype)], [_info("y", ("n", "s"))], {"x": Pad(1, value, (8,))}
        ).values == {"x": value}
    padding = Padding.of([_info("x", ("n", "s"))], [], {"x": Pad(1, 2**70, (8,))})
    parts = [({"x": np.zeros((1, length), np.float32)}, 0, 1) for length in (2, 3)]
    assert padding.stacked(parts)["x"][0, 2:].tolist() == [2.0**70] * 6
    with pytest.raises(InvalidArgumentError, match="input 'x' holds strings, which are not padded"):
        Padding.of([_info("x", ("n", "s", "w"), "uint8")], [], {"x": PAD}, ["x"])


@pytest.mark.parametrize(
    ("pad", "why"),
    [
        (1, "pad is 1 and must be a table of inputs"),
        ({"x": 1}, "pad of input 'x' is 1 and must be a table"),
        ({"x": {}}, "pad of input 'x': to is None and must be a list of lengths"),
        ({"x": {"to": []}}, "to is .. and must be"),
        ({"x": {"to": [0]}}, "to is .0. and must be"),
        ({"x": {"to": [True]}}, "to is .True. and must be"),
        ({"x": {"to": 16}}, "to is 16 and must be"),
        ({"x": {"to": [8], "axis": 0}}, "axis is 0 and must be an integer from 1 on, for rows are on axis 0"),
        ({"x": {"to": [8], "axis": "1"}}, "axis is '1' and must be"),
        ({"x": {"to": [8], "value": "0"}}, "value is '0' and must be a number, or true or false"),
        ({"x": {"to": [8], "values": 0}}, "pad of input 'x' has values, which is none of: axis, to, value"),
    ],
)
def test_pads_that_are_none(pad: Any, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        ModelConfig.read({"max_batch_size": 4, "dynamic_batching": {"pad": pad}})


def test_a_pad_is_of_a_model_that_takes_batches_and_is_told_at_load(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="dynamic_batching needs max_batch_size"):
        ModelConfig.read({"dynamic_batching": {"pad": {"x": {"to": [8]}}}})
    with pytest.raises(
        InvalidArgumentError, match="m.1.model.mrt: pad: the model has no input 'x'; its inputs are ids"
    ):
        _core(tmp_path, embedding(), "{x = {to = [16]}}")
    config = ModelConfig.read({"max_batch_size": 4, "dynamic_batching": {"pad": {"x": {"to": [32, 8, 8]}}}})
    assert config.scheduling.pad == {"x": Pad(1, 0, (8, 32))}

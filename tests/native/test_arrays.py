"""Inputs of every kind: layouts of numpy, DLPack, the array interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import maas_rt
from tests import _tiny

RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def softmax() -> maas_rt.Model:
    return maas_rt.load(_tiny.softmax(), threads=1)


def unaligned(array: Any) -> Any:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = raw.view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


X = RNG.standard_normal((6, 4)).astype(np.float32)
LAYOUTS: dict[str, Any] = {
    "contiguous": X,
    "fortran": np.asfortranarray(X),
    "transposed": np.ascontiguousarray(X.T).T,
    "rows skipped": np.repeat(X, 2, 0)[::2],
    "columns skipped": np.repeat(X, 3, 1)[:, ::3],
    "reversed": np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "byte-swapped": X.astype(">f4"),
    "unaligned": unaligned(X),
    "strided between elements": np.rec.fromarrays([X, X], dtype=[("a", "<f4"), ("b", "<i2")])["a"]
    if False
    else np.zeros((6, 4), [("pad", "u1"), ("v", "<f4")])["v"],
    "subclass": X.view(np.matrix) if hasattr(np, "matrix") else X,
    "read-only": X.copy(),
}
LAYOUTS["strided between elements"][...] = X
LAYOUTS["read-only"].flags.writeable = False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_result(softmax: maas_rt.Model, layout: str) -> None:
    array = LAYOUTS[layout]
    np.testing.assert_array_equal(np.asarray(array), X)
    np.testing.assert_array_equal(softmax(array), softmax(X))
    np.testing.assert_allclose(softmax(array), _tiny.reference_softmax(X), rtol=1e-6, atol=1e-7)


def test_broadcast_views_have_zero_strides(softmax: maas_rt.Model) -> None:
    np.testing.assert_array_equal(softmax(np.broadcast_to(X[0], (6, 4))), softmax(np.tile(X[0], (6, 1))))


class Exporter:
    """An array of somebody else's that offers one protocol only."""

    def __init__(self, array: Any, protocol: str) -> None:
        self._array = array
        if protocol == "array":
            self.__array_interface__ = array.__array_interface__


class DlpackExporter:
    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self._array = array
        self._device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def test_the_array_interface_is_an_input(softmax: maas_rt.Model) -> None:
    np.testing.assert_array_equal(softmax(Exporter(X, "array")), softmax(X))
    with pytest.raises(maas_rt.InvalidArgumentError, match="'x' is a Exporter and must be an array"):
        softmax(Exporter(X, "none"))


def test_dlpack_is_an_input(softmax: maas_rt.Model) -> None:
    for array in (X, np.asfortranarray(X), X[::2]):
        np.testing.assert_array_equal(softmax(DlpackExporter(array)), softmax(array))


def test_another_device_is_refused(softmax: maas_rt.Model) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="device 2 and must be on the CPU"):
        softmax(DlpackExporter(X, (2, 0)))


def test_an_exporter_that_fails_is_cited(softmax: maas_rt.Model) -> None:
    class Broken(DlpackExporter):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("not today")

    class Liar(DlpackExporter):
        def __dlpack__(self, **options: Any) -> Any:
            return 7

    with pytest.raises(maas_rt.InvalidArgumentError, match="cannot be read: not today"):
        softmax(Broken(X))
    with pytest.raises(maas_rt.InvalidArgumentError, match="gives no DLPack tensor"):
        softmax(Liar(X))


def test_dlpack_tensors_are_given_back(softmax: maas_rt.Model) -> None:
    import sys

    array = X.copy()
    before = sys.getrefcount(array)
    for _ in range(10):
        softmax(DlpackExporter(array))
        with pytest.raises(maas_rt.InvalidArgumentError):
            softmax(DlpackExporter(array), DlpackExporter(array))
    assert sys.getrefcount(array) == before


def test_inputs_are_given_back(softmax: maas_rt.Model) -> None:
    import sys

    array = X.copy()
    before = sys.getrefcount(array)
    for _ in range(10):
        softmax(array)
        softmax.run({"x": array})
        with pytest.raises(maas_rt.InvalidArgumentError):
            softmax(array.astype(np.float64))
    assert sys.getrefcount(array) == before


def test_torch_tensors_go_in_and_out() -> None:
    torch = pytest.importorskip("torch")
    softmax = maas_rt.load(_tiny.softmax(), threads=1)
    x = torch.from_numpy(X)
    np.testing.assert_array_equal(softmax(x), softmax(X))
    np.testing.assert_array_equal(softmax(x.t().contiguous().t()), softmax(X))
    y = softmax(x)
    back = torch.from_dlpack(y)
    assert back.data_ptr() == y.ctypes.data
    torch.testing.assert_close(back, torch.softmax(x, -1))
    buffer = torch.full((6, 4), float("nan"))
    assert softmax.run({"x": x}, out={"y": buffer})["y"] is buffer
    torch.testing.assert_close(buffer, torch.softmax(x, -1))
    with pytest.raises(maas_rt.InvalidArgumentError, match="contiguous"):
        softmax.run({"x": x}, out={"y": torch.zeros(4, 6).t()})
    with pytest.raises(maas_rt.InvalidArgumentError, match="gradient"):
        softmax(x.clone().requires_grad_())
    with pytest.raises(maas_rt.InvalidArgumentError, match="float16.*float32"):
        softmax(x.half())
    with pytest.raises(maas_rt.InvalidArgumentError, match="bfloat16.*float32"):
        softmax(x.bfloat16())


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "int64", "uint64", "float64"]
)
def test_every_dtype_goes_through(dtype: str) -> None:
    b = _tiny.Builder()
    x = b.input("x", [2, 3], dtype)
    y = b.value("y", [3, 2], dtype)
    b.kernel("transpose", [x], [y], perm=[1, 0])
    model = maas_rt.load(b.file(y))
    array = RNG.integers(0, 2, (2, 3)).astype(dtype)
    result = model(array)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array.T)
    assert model.inputs[0].dtype == dtype


def test_longlong_is_int64() -> None:
    model = maas_rt.load(_tiny.gather())
    table = RNG.standard_normal((5, 2), np.float32)
    np.testing.assert_array_equal(model(table, np.array([1, 2, 3], np.longlong)), table[1:4])


def test_many_inputs_and_outputs() -> None:
    b = _tiny.Builder()
    inputs = [b.input(f"x{i}", [2, 1]) for i in range(40)]
    outputs = [b.value(f"y{i}", [1, 2]) for i in range(40)]
    for x, y in zip(inputs, outputs, strict=True):
        b.kernel("transpose", [x], [y], perm=[1, 0])
    model = maas_rt.load(b.file(*outputs))
    arrays = {f"x{i}": np.full((2, 1), i, np.float32) for i in range(40)}
    for results in (model.run(arrays), model(**arrays), model(*arrays.values())):
        assert [int(results[f"y{i}"][0, 0]) for i in range(40)] == list(range(40))


def test_torch_views_that_are_negated_or_conjugated_when_they_are_read(softmax: maas_rt.Model) -> None:
    """DLPack hands out their memory as it lies there, and says nothing of the bit."""
    torch = pytest.importorskip("torch")
    z = torch.complex(torch.zeros(6, 4), torch.from_numpy(X))
    for view in (z.conj().imag, torch._neg_view(torch.from_numpy(X)), (z * 1j).conj().conj().real):
        np.testing.assert_array_equal(softmax(view), softmax(view.resolve_neg().clone().numpy()))
    out = torch._neg_view(torch.zeros(6, 4))
    with pytest.raises(maas_rt.InvalidArgumentError, match="negated or conjugated when it is read"):
        softmax.run({softmax.inputs[0].name: X}, out={softmax.outputs[0].name: out})
    with pytest.raises(maas_rt.InvalidArgumentError, match="without memory"):
        softmax(torch._efficientzerotensor((6, 4)))

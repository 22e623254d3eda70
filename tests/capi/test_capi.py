"""maas_rt.capi: the same models and the same mistakes through cffi alone, on the same loaded library."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt

pytest.importorskip("cffi")
from maas_rt import _capi_ffi, capi
from tests import _tiny

RNG = np.random.default_rng(4)
A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(6).reshape(2, 3)


def test_every_function_of_the_header_is_bound_and_exported() -> None:
    header = Path(_capi_ffi.__file__).with_name("include") / "maas_rt.h"
    names = set(re.findall(r"^MRT_API[^(;]*?\b(mrt_\w+)\(", header.read_text(), flags=re.MULTILINE))
    assert len(names) >= 40
    for name in names:
        assert getattr(_capi_ffi.lib, name), name


def test_both_bindings_share_one_library(tmp_path: Path) -> None:
    maas_rt.load(_tiny.softmax())
    maps = Path("/proc/self/maps").read_text()
    assert len({line.split()[-1] for line in maps.splitlines() if "libmaas_rt" in line}) == 1
    assert capi.version() == maas_rt.__version__


def test_capi_needs_no_compiled_extension(tmp_path: Path) -> None:
    (tmp_path / "m.mrt").write_bytes(_tiny.softmax())
    program = (
        "import sys; sys.modules['maas_rt._native'] = None\n"
        "import numpy, maas_rt.capi\n"
        f"print(maas_rt.capi.load({str(tmp_path / 'm.mrt')!r})(numpy.zeros((1, 4), 'f4')))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[[0.25", "0.25", "0.25", "0.25]]"]


def test_the_same_results_as_the_extension(tmp_path: Path) -> None:
    data = _tiny.mlp("batch")
    (tmp_path / "m.mrt").write_bytes(data)
    native = maas_rt.load(data, threads=1)
    for source in (data, tmp_path / "m.mrt", str(tmp_path / "m.mrt")):
        model = capi.load(source, threads=1)
        assert model.inputs == native.inputs
        assert model.outputs == native.outputs
        assert model.manifest == native.manifest
        for batch in (1, 3, 1, 700):
            x = RNG.standard_normal((batch, 16), np.float32)
            np.testing.assert_array_equal(model(x), native(x))
            np.testing.assert_array_equal(model(x=np.asfortranarray(x)), native(x))
            np.testing.assert_array_equal(model.run({"x": x})["y"], native(x))


def test_several_outputs_and_buffers() -> None:
    model = capi.load(_tiny.two_outputs())
    buffer = np.zeros((3, 2), np.int64)
    results = model.run({"a": A, "b": B}, out={"bt": buffer})
    assert results["bt"] is buffer
    np.testing.assert_array_equal(buffer, B.T)
    np.testing.assert_array_equal(model(A, b=B)["aa"], np.concatenate([A, A]))


def test_torch_tensors_are_inputs() -> None:
    torch = pytest.importorskip("torch")
    model = capi.load(_tiny.softmax())
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.from_dlpack(model(x)), torch.softmax(x, -1))
    negated = torch.randn(3, 4, dtype=torch.complex64).conj().imag
    torch.testing.assert_close(torch.from_dlpack(model(negated)), torch.softmax(negated, -1))
    x.untyped_storage().resize_(0)
    with pytest.raises(maas_rt.InvalidArgumentError, match="without memory"):
        model(x)


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        (r"'x'.*float64.*float32", {"x": np.zeros((1, 4))}),
        (r"'x'.*5.*4", {"x": np.zeros((1, 5), np.float32)}),
        ("'x' is missing", {}),
        ("no input 'z'", {"x": np.zeros((1, 4), np.float32), "z": 1}),
        ("'x' is a list", {"x": [[0.0] * 4]}),
        ("dtype object", {"x": np.zeros((1, 4), object)}),
        ("masked array.*filled", {"x": np.ma.masked_array(np.zeros((1, 4), np.float32), False)}),
        ("inputs is a list and must be a dict", [np.zeros((1, 4), np.float32)]),
    ],
)
def test_mistakes_give_one_sentence(sentence: str, arguments: Any) -> None:
    model = capi.load(_tiny.softmax())
    with pytest.raises(maas_rt.InvalidArgumentError, match=sentence):
        model.run(arguments)


@pytest.mark.parametrize(
    ("sentence", "options"),
    [
        ("deadline is 'soon'", {"deadline": "soon"}),
        ("deadline is nan", {"deadline": float("nan")}),
        ("cancel is a int", {"cancel": 3}),
        ("out is a list", {"out": [1]}),
    ],
)
def test_wrong_options_of_a_run_give_one_sentence(sentence: str, options: dict[str, Any]) -> None:
    model = capi.load(_tiny.softmax())
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(maas_rt.InvalidArgumentError, match=sentence):
        model.run({"x": x}, **options)
    for far in (float("inf"), 1e300):
        np.testing.assert_array_equal(model.run({"x": x}, deadline=far)["y"], model(x))


@pytest.mark.parametrize(
    ("sentence", "buffer"),
    [
        ("float64 and must have float32", np.zeros((2, 4))),
        (r"shape \[3, 4\]", np.zeros((3, 4), np.float32)),
        ("contiguous", np.zeros((4, 2), np.float32).T),
        ("contiguous", [0.0]),
    ],
)
def test_wrong_buffers_give_one_sentence(sentence: str, buffer: Any) -> None:
    model = capi.load(_tiny.softmax())
    with pytest.raises(maas_rt.InvalidArgumentError, match=sentence):
        model.run({"x": np.zeros((2, 4), np.float32)}, out={"y": buffer})


def test_bad_files_and_options(tmp_path: Path) -> None:
    for source in (b"", b"hello", _tiny.softmax()[:-1], _tiny.softmax()[:100]):
        with pytest.raises(maas_rt.FormatError):
            capi.load(source)
    with pytest.raises(maas_rt.Error, match=r"absent\.mrt"):
        capi.load(tmp_path / "absent.mrt")
    for options in ({"code": "maybe"}, {"verify": "half"}, {"threads": -1}):
        with pytest.raises(maas_rt.InvalidArgumentError, match=next(iter(options))):
            capi.load(_tiny.softmax(), **options)  # type: ignore[arg-type]
    with pytest.raises(maas_rt.InvalidArgumentError, match="load takes"):
        capi.load(None)  # type: ignore[arg-type]
    with pytest.raises(maas_rt.InvalidArgumentError, match="must be contiguous"):
        capi.load(memoryview(_tiny.softmax())[::2])  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        capi.load("\udce4.mrt")  # a name in Latin-1, as os.listdir gives it


def test_many_threads_cancel_and_deadline() -> None:
    model = capi.load(_tiny.mlp("batch"), threads=1)
    inputs = [RNG.standard_normal((1 + i % 3, 16), np.float32) for i in range(8)]
    expected = [model(x) for x in inputs]

    def work(i: int) -> None:
        for _ in range(20):
            np.testing.assert_array_equal(model(inputs[i]), expected[i])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    endless = capi.load(_tiny.endless(), threads=1)
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(maas_rt.DeadlineExceededError):
        endless.run({"x": x}, deadline=0.01)
    token = capi.CancelToken()
    timer = threading.Timer(0.02, token.cancel)
    timer.start()
    with pytest.raises(maas_rt.CancelledError):
        endless.run({"x": x}, cancel=token)
    timer.join()


def test_asynchronous_runs_of_the_c_api() -> None:
    """mrt_session_run_async with a callback: the status and its sentence arrive once."""
    ffi, lib = _capi_ffi.ffi, _capi_ffi.lib
    model = capi.load(_tiny.softmax(), threads=1)
    session = model._new_session()
    done = threading.Event()
    seen: list[tuple[int, str]] = []

    @ffi.callback("void(void*, mrt_status, const char*)")  # type: ignore[untyped-decorator]
    def finished(user: Any, status: int, message: Any) -> None:
        seen.append((status, _capi_ffi.text(message)))
        done.set()

    for width, expected in ((4, 0), (5, 2)):
        data = np.zeros((2, width), np.float32)
        shape = ffi.new("int64_t[]", [2, width])
        tensor = ffi.new("mrt_tensor*", {"data": ffi.cast("void*", data.ctypes.data), "ndim": 2, "shape": shape})
        tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes = 2, 32, 1
        out = ffi.new("mrt_tensor*")
        seen.clear()
        done.clear()
        status = lib.mrt_session_run_async(session, tensor, 1, out, 1, ffi.NULL, finished, ffi.NULL)
        if status:  # refused at once, or through the callback: one of the two
            seen.append((status, _capi_ffi.text(lib.mrt_last_error())))
        else:
            assert done.wait(60)
        assert [each[0] for each in seen] == [expected]
        assert bool(seen[0][1]) == bool(expected)

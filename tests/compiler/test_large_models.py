"""Large models: initializers that stay in their files, packed weights that go to one, and the same bytes whichever way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile
from maas_rt.compiler.importers.onnx import _data, _load
from maas_rt.compiler.plan import _weights
from maas_rt.compiler.plan._weights import WeightsSection
from onnx import TensorProto, helper

import maas_rt
from maas_rt import CompileError, ImportModelError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((64, 32)).astype("float32")


def _model() -> onnx.ModelProto:
    """A tied embedding, half-precision weights, 8-bit ones, and a subgraph with an initializer of an outer name."""
    rng = np.random.default_rng(1)
    constants = {
        "table": TABLE,
        "half": rng.standard_normal((32, 32)).astype("float16"),
        "bytes": rng.integers(-127, 128, (32, 32)).astype("int8"),
        "scale": np.float32(0.01),
        "flag": np.array(True),
    }
    inner = [onnx.numpy_helper.from_array(TABLE[:32] * 2, "own")]
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["b", "own"], [f"r{k}"])],
            f"branch{k}",
            [],
            [helper.make_tensor_value_info(f"r{k}", TensorProto.FLOAT, None)],
            inner,
        )
        for k in range(2)
    ]
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Cast", ["half"], ["h"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["e", "h"], ["a"]),
        helper.make_node("DequantizeLinear", ["bytes", "scale"], ["d"]),
        helper.make_node("MatMul", ["a", "d"], ["b"]),
        helper.make_node("If", ["flag"], ["c"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["c", "t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_data, "LARGE", 64)
    monkeypatch.setattr(_data, "LARGE_FILE", 0)
    monkeypatch.setattr(_load, "LARGE_FILE", 0)
    monkeypatch.setattr(_weights, "_IN_MEMORY", 256)


def _saved(model: onnx.ModelProto, folder: Path, form: str) -> onnx.ModelProto | str:
    path = folder / f"{form}.onnx"
    if form == "memory":
        return model
    if form == "file":
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=form == "external", size_threshold=0, location="w.bin" if form == "external" else None)  # fmt: skip
    return str(path)


def test_the_same_bytes_from_memory_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = compile(_model()).to_bytes()
    x = np.array([3, 63, 0])
    result = maas_rt.load(wanted).run({"x": x})["y"]
    _all_is_large.__wrapped__(monkeypatch)  # type: ignore[attr-defined]
    for form in ("memory", "file", "external", "files"):
        if form == "files":
            monkeypatch.setattr(_data, "_MAX_FILES", 2)
        folder = tmp_path / form
        folder.mkdir()
        artifact = compile(_saved(_model(), folder, form))
        assert artifact.linear.weights.file is not None
        assert artifact.manifest["verified"]["status"] == "passed"
        assert artifact.to_bytes() == wanted
        artifact.save(folder / "m.mrt")
        assert (folder / "m.mrt").read_bytes() == wanted
        np.testing.assert_array_equal(artifact.loaded().run({"x": x})["y"], result)


@pytest.mark.usefixtures("_all_is_large")
@pytest.mark.parametrize("without", ["onnxruntime", "onnx.reference"])
def test_the_reference_reads_the_same_files(without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.importers.onnx import _source

    kept = tuple(name for name in ("onnxruntime", "onnx.reference") if name != without)
    monkeypatch.setattr(_source, "_installed", lambda: kept)
    for form in ("file", "external"):
        assert compile(_saved(_model(), tmp_path, form)).manifest["verified"]["runs"] >= 2


@pytest.mark.usefixtures("_all_is_large")
def test_a_wrong_result_is_blamed_in_a_large_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.importers.onnx._data import Data

    read = Data.array
    monkeypatch.setattr(Data, "array", lambda self, tensor: read(self, tensor) * (1 if tensor.name != "half" else 2))
    with pytest.raises(maas_rt.VerificationError, match=r"first difference is at operator a \(MatMul\)"):
        compile(_saved(_model(), tmp_path, "external"))


@pytest.mark.usefixtures("_all_is_large")
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(_model(), tmp_path, "external")
    read = _data.Data.array
    changes: list[Callable[[], object]] = [lambda: (tmp_path / "w.bin").open("ab").write(b"more")]

    def changing(self: _data.Data, tensor: onnx.TensorProto) -> np.ndarray:
        if changes:
            changes.pop()()
        return read(self, tensor)

    monkeypatch.setattr(_data.Data, "array", changing)
    with pytest.raises(ImportModelError, match="changed while it was read"):
        compile(path)
    changes.append(lambda: (tmp_path / "w.bin").write_bytes(b"less"))
    with pytest.raises(ImportModelError, match=r"changed|cut off"):
        compile(path)


def test_a_file_is_taken_apart_without_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_data, "LARGE", 1024)
    model = _model()
    raw = model.SerializeToString()
    found = _data.skeleton(memoryview(raw))
    assert found is not None
    small, places = found
    assert len(small) < len(raw) - TABLE.nbytes
    again = onnx.ModelProto.FromString(small)
    for number, (offset, size) in places.items():
        assert not again.graph.initializer[number].raw_data
        again.graph.initializer[number].raw_data = raw[offset : offset + size]
    assert again == model
    assert sorted(model.graph.initializer[n].name for n in places) == ["bytes", "half", "table"]
    for _ in range(2000):  # whatever is in a file, what is found lies inside it
        damaged = bytearray(raw[: RNG.integers(1, len(raw) + 1)])
        for at in RNG.integers(0, len(damaged), 3):
            damaged[at] = RNG.integers(0, 256)
        found = _data.skeleton(memoryview(damaged))
        assert found is None or all(o >= 0 and o + s <= len(damaged) for o, s in found[1].values())


def test_a_temporary_folder_that_is_full_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(_weights, "_IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(CompileError, match="TMPDIR"):
        WeightsSection().add(b"x")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process its peak")
def test_a_compile_takes_two_and_a_half_times_its_weights() -> None:
    """128 MiB of products, and a transposed table: python -m bench.memory has more."""
    code = "import json, bench.memory as m, bench._large as l, tempfile; d = tempfile.TemporaryDirectory(); " \
           "l.SOURCES['t'] = s = l.onnx_source([('embedding', (8192, 2048)), *[('product', (2048, 2048))] * 4, ('tied', ())]); " \
           "w = s.write(d.name); r = m._measure('t', d.name); d.cleanup(); print(json.dumps([w, r]))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    weights, found = json.loads(done.stdout.splitlines()[-1])
    assert found["verified"] == "passed"
    assert found["peak"] <= 2.5 * weights
    assert found["source_framework"] <= 4 * weights

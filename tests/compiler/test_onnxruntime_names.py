"""A script for ONNX Runtime changes one import: the same calls give the same answers from both."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import compile
from onnx import TensorProto, helper

import maas_rt
from tests import _tiny

X = np.arange(6, dtype=np.float32).reshape(2, 3)


ABOUT = "producer_name graph_name graph_description description domain version custom_metadata_map".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """two.onnx (x, n -> sum, twice) and words.onnx (strings), each beside its .mrt."""
    folder = tmp_path_factory.mktemp("onnxruntime")
    info = helper.make_tensor_value_info
    two = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Cast", ["n"], ["m"], to=TensorProto.DOUBLE)],
        "two",
        [info("x", TensorProto.FLOAT, ["batch", 3]), info("n", TensorProto.INT64, [2])],
        [info("twice", TensorProto.FLOAT, ["batch", 3]), info("m", TensorProto.DOUBLE, [2])],
    )
    words = helper.make_graph(
        [helper.make_node("StringConcat", ["a", "b"], ["c"])],
        "words",
        [info("a", TensorProto.STRING, ["n"]), info("b", TensorProto.STRING, ["n"])],
        [info("c", TensorProto.STRING, ["n"])],
    )
    for graph in (two, words):
        graph.doc_string = "what it is for"
        said = {"producer_name": "a tool", "doc_string": "what it does", "domain": "org.example", "model_version": 3}
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, **said)
        helper.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}", "stride": "32"})
        onnx.save(model, folder / f"{graph.name}.onnx")
        compile(model, name=graph.name).save(folder / f"{graph.name}.mrt")
    return folder


def script(ort: Any, path: Path) -> dict[str, Any]:
    """What a user's script does, and all that it sees."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(3)
    with_options = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
    session = ort.InferenceSession(str(path), sess_options=options, providers=[with_options])
    feed = {"x": X, "n": np.array([3, 4])}
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_ortvalue_input("n", ort.OrtValue.ortvalue_from_numpy(feed["n"]))
    binding.bind_output("m")
    into = np.zeros((2, 3), np.float32)
    binding.bind_output("twice", "cpu", 0, np.float32, (2, 3), into.ctypes.data)
    session.run_with_iobinding(binding)
    value = ort.OrtValue.ortvalue_from_numpy(X)
    by_value = session.run_with_ort_values(["twice"], {"x": value, "n": ort.OrtValue.ortvalue_from_numpy(feed["n"])})
    arrived, later = threading.Event(), []
    session.run_async(None, feed, lambda out, data, error: (later.append((out, data, error)), arrived.set()), 7)
    assert arrived.wait(30)
    return {
        "all": session.run(None, feed),
        "some": session.run(["m"], feed, ort.RunOptions()),
        "inputs": [(i.name, i.type, i.shape) for i in session.get_inputs()],
        "outputs": [(o.name, o.type, o.shape) for o in session.get_outputs()],
        "providers": session.get_providers(),
        "about": [getattr(session.get_modelmeta(), name) for name in ABOUT],
        "bound": binding.copy_outputs_to_cpu(),
        "into": into,
        "value": (value.shape(), value.data_type(), value.device_name(), by_value[0].numpy()),
        "later": later[0],
        "entry": options.get_session_config_entry("session.intra_op.allow_spinning"),
        "profile": session.end_profiling(),
        "chosen": options.has_providers(),
        "types": [
            ort.OrtValue.ortvalue_from_numpy(np.zeros(2, dtype)).element_type()
            for dtype in "f4 u1 i1 u2 i2 i4 i8 ? f2 f8 u4 u8".split()
        ],
        "kinds": (value.is_tensor(), value.is_tensor_sequence(), value.is_sparse_tensor()),
    }


def test_a_script_changes_one_import(folder: Path) -> None:
    ours, theirs = script(maas_rt, folder / "two.mrt"), script(onnxruntime, folder / "two.onnx")
    assert ours.keys() == theirs.keys()
    for key, want in theirs.items():
        np.testing.assert_equal(ours[key], want, err_msg=key)


def test_strings_are_strings(folder: Path) -> None:
    words = np.array(["ab", "cde", ""], object), np.array(["x", "", "öz"], object)
    ours, theirs = (
        (s.run(None, dict(zip(("a", "b"), words))), [(i.type, i.shape) for i in s.get_inputs()])
        for s in (
            maas_rt.InferenceSession(folder / "words.mrt"),
            onnxruntime.InferenceSession(folder / "words.onnx"),
        )
    )
    assert ours[1] == theirs[1]
    np.testing.assert_array_equal(ours[0][0], theirs[0][0])


def test_the_bytes_of_an_onnx_model_are_compiled(folder: Path) -> None:
    x = {"x": np.zeros((1, 3), np.float32), "n": np.array([1, 2])}
    expected = maas_rt.InferenceSession(folder / "two.mrt").run(["m"], x)
    with pytest.warns(UserWarning, match="given as bytes was compiled in memory"):
        session = maas_rt.InferenceSession((folder / "two.onnx").read_bytes())
    np.testing.assert_array_equal(session.run(["m"], x), expected)


def test_an_onnx_file_is_compiled_and_says_so(folder: Path) -> None:
    with pytest.warns(UserWarning, match="compiled in memory: `maas-rt compile"):
        session = maas_rt.InferenceSession(folder / "two.onnx")
    np.testing.assert_array_equal(session.run(["twice"], {"x": X, "n": np.array([1, 2])})[0], 2 * X)


def test_what_means_nothing_here_is_said_once() -> None:
    data = _tiny.softmax()
    for expected in (1, 0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = maas_rt.SessionOptions()
            options.some_new_option = 3  # type: ignore[attr-defined]
            maas_rt.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        assert [str(w.message) for w in caught] == expected * [
            "maas_rt: SessionOptions has no option 'some_new_option'; it is ignored"
        ]
    with pytest.warns(UserWarning, match="no provider 'CUDAExecutionProvider'") as warned:
        maas_rt.InferenceSession(data, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert [w.filename for w in warned] == [__file__]
    assert maas_rt.get_available_providers() == ["CPUExecutionProvider"]


def test_threads_and_termination() -> None:
    options, run = maas_rt.SessionOptions(), maas_rt.RunOptions()
    options.intra_op_num_threads = 1
    session = maas_rt.InferenceSession(_tiny.endless(), options)
    assert session._model._threads == 1
    timer = threading.Timer(0.2, setattr, (run, "terminate", True))
    timer.start()
    with pytest.raises(maas_rt.CancelledError):
        session.run(None, {"x": np.ones((1, 4), np.float32)}, run)
    timer.join()


WITH_NUMPY_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "maas_rt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
import maas_rt as ort
session = ort.InferenceSession("two.mrt", providers=["CPUExecutionProvider"])
print(session.run(["m"], {"x": np.zeros((1, 3), np.float32), "n": np.array([1, 2])})[0].tolist())
try:
    ort.InferenceSession("two.onnx")
except ImportError as error:
    print(error)
"""


def test_with_numpy_alone(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_NUMPY_ALONE], capture_output=True, text=True, cwd=folder, timeout=60
    )
    results, sentence = done.stdout.splitlines()
    assert results == "[1.0, 2.0]"
    assert sentence.startswith("two.onnx is compiled to a model.mrt first, which needs ")
    assert "pip install 'maas-rt[compiler]'" in sentence
    assert done.stderr == ""


def test_lists_and_bindings() -> None:
    session = maas_rt.InferenceSession(_tiny.softmax())
    x = np.zeros((1, 4), np.float32)
    (expected,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(session.run(None, {"x": [[0, 0.0, 0, 0]]})[0], expected)  # the input's type
    with pytest.raises(maas_rt.InvalidArgumentError, match="'x' cannot be read"):
        session.run(None, {"x": [["a", "b", "c", "d"]]})
    given = maas_rt.OrtValue.ortvalue_from_numpy_with_onnx_type(x, 1)
    result = maas_rt.OrtValue.ortvalue_from_shape_and_type([1, 4], 1)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, 1, given.shape(), given.data_ptr())
    binding.bind_ortvalue_output("y", result)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(np.asarray(result), expected)
    np.testing.assert_array_equal(np.from_dlpack(result), expected)
    assert binding.get_outputs_as_ortvaluevector()[0].numpy() is result.numpy()


def test_numbers_that_the_inputs_type_does_not_have(folder: Path) -> None:
    session = maas_rt.InferenceSession(folder / "two.mrt")
    x = np.zeros((1, 3), np.float32)
    assert session.run(["m"], {"x": x, "n": [1.0, 2.0]})[0].tolist() == [1.0, 2.0]
    for wrong in ([1.5, 2.0], [float("nan"), 1.0]):
        with pytest.raises(maas_rt.InvalidArgumentError, match="'n' is float64, expected int64"):
            session.run(["m"], {"x": x, "n": wrong})


def test_mistakes() -> None:
    session = maas_rt.InferenceSession(_tiny.softmax())
    x = np.zeros((1, 4), np.float32)
    for names, feed, options, sentence in (
        ("y", {"x": x}, None, r"names are 'y' and must be a list: \['y'\]"),
        (None, [x], None, "the inputs are a list and must be a dict"),
        (None, {"x": x}, {}, "run_options is a dict and must be a RunOptions"),
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=sentence):
            session.run(names, feed, options)  # type: ignore[arg-type]
    binding = session.io_binding()
    for mistake, sentence in (
        (lambda: binding.bind_ortvalue_input("x", x), "'x' is bound to a ndarray"),
        (lambda: binding.bind_output("y", "cpu", 0, "no type", [1, 4], 64), "element_type is 'no type'"),
        (lambda: binding.bind_input("x", "cpu", 0, 99, [1, 4], 64), "element_type is 99"),
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=sentence):
            mistake()
    with pytest.raises(maas_rt.InvalidArgumentError, match="no output 'z'; its outputs are: y"):
        session.run(["z"], {"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(maas_rt.InvalidArgumentError, match="input 'x' is missing"):
        session.run(None, {})
    with pytest.raises(FileNotFoundError):
        maas_rt.InferenceSession("absent.mrt")
    with pytest.raises(FileNotFoundError):
        maas_rt.InferenceSession("absent.onnx")
    with pytest.raises(maas_rt.InvalidArgumentError, match="a compiled model has its own"):
        maas_rt.SessionOptions().add_initializer("w", maas_rt.OrtValue(np.zeros(1)))
    with pytest.raises(maas_rt.InvalidArgumentError, match="sess_options is a dict and must be a SessionOptions"):
        maas_rt.InferenceSession(_tiny.softmax(), {})  # type: ignore[arg-type]
    with pytest.raises(maas_rt.InvalidArgumentError, match="negative dimensions"):
        maas_rt.OrtValue.ortvalue_from_shape_and_type([-2], np.float32)
    with pytest.raises(maas_rt.InvalidArgumentError, match="there is no device 'cuda'"):
        maas_rt.OrtValue.ortvalue_from_numpy(np.zeros(1), "cuda", 0)

"""The source framework in a process of its own: how it ends, what is said of that, and who is asked next."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import _configs, compile
from maas_rt.compiler._configs import VerifyOptions
from maas_rt.compiler.oracle import Oracle, OracleEndedError, OracleError, _process, _products, _wire, infer_types
from maas_rt.compiler.verify import _reference, run_compiled
from onnx import TensorProto, helper

import maas_rt
from maas_rt import CompileError, VerificationError

RNG = np.random.default_rng(0)


def _info(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11 if opset > 21 else 9)


def _double() -> onnx.ModelProto:
    return _model([helper.make_node("Add", ["x", "x"], ["y"])], [_info("x", [2, 3])], [_info("y", None)])


def _oracle(model: onnx.ModelProto, implementation: str = "onnxruntime") -> Oracle:
    return Oracle(implementation, model.SerializeToString(), [o.name for o in model.graph.output], [])


def _pid(oracle: Oracle) -> int:
    assert oracle._worker is not None
    return oracle._worker._process.pid


X = RNG.standard_normal((2, 3)).astype("float32")


@pytest.mark.parametrize("implementation", ["onnxruntime", "onnx.reference"])
def test_one_worker_runs_all_models(implementation: str) -> None:
    first, second = (_oracle(_double(), implementation) for _ in range(2))
    np.testing.assert_array_equal(first.run({"x": X})["y"], X + X)
    np.testing.assert_array_equal(second.run({"x": X})["y"], X + X)
    pid = _pid(first)
    assert _pid(second) == pid
    assert first.version.startswith(implementation)
    thread = threading.Thread(
        target=lambda: (oracle := _oracle(_double()), oracle.run({"x": X}), pids.append(_pid(oracle)))
    )
    pids: list[int] = []
    thread.start()
    thread.join()
    assert pids == [pid]


def test_what_one_thread_waits_for_does_not_stop_another() -> None:
    endless, oracle = _oracle(_endless()), _oracle(_double())
    oracle.run({"x": X})
    before = _pid(oracle)
    failures: list[str] = []

    def wait() -> None:
        try:
            endless.run({"x": np.ones(3, "float32")})
        except OracleEndedError as error:
            failures.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    while endless._worker is None or not endless._session:
        time.sleep(0.01)
    np.testing.assert_array_equal(oracle.run({"x": X})["y"], X + X)
    assert _pid(oracle) != before == _pid(endless)
    endless.interrupt()
    thread.join()
    assert failures == ["onnxruntime ended with SIGKILL on these inputs"]
    np.testing.assert_array_equal(oracle.run({"x": X})["y"], X + X)


def _endless() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["w"]), helper.make_node("Identity", ["c"], ["more"])],
        "body",
        [_info("i", [], TensorProto.INT64), _info("c", [], TensorProto.BOOL), _info("v", [3])],
        [_info("more", [], TensorProto.BOOL), _info("w", [3])],
    )
    node = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    return _model([node], [_info("x", [3])], [_info("y", [3])], {"true": np.array(True)})


def test_one_that_idled_out_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = _oracle(_double())
    oracle.run({"x": X})
    before = oracle._worker
    assert before is not None
    monkeypatch.setattr(type(before), "idled_out", lambda self: self is before)
    usable = type(before).usable
    looks: list[bool] = []
    # It ends between the look and the question.
    monkeypatch.setattr(
        type(before), "usable", lambda self: usable(self) or (self is before and not looks and not looks.append(True))
    )  # type: ignore[func-returns-value]
    before.kill()
    before._process.wait()
    np.testing.assert_array_equal(oracle.run({"x": X})["y"], X + X)
    assert looks
    assert oracle._worker is not before


def test_a_fork_leaves_the_worker_to_its_owner() -> None:
    oracle = _oracle(_double())
    oracle.run({"x": X})
    child = os.fork()
    if not child:
        worker = oracle._worker
        os._exit(0 if worker is not None and not worker.usable() and worker.end() is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    before = _pid(oracle)
    np.testing.assert_array_equal(oracle.run({"x": X})["y"], X + X)
    assert _pid(oracle) == before


@pytest.mark.parametrize("implementation", ["onnxruntime", "onnx.reference"])
def test_memory_is_bounded(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GiB of ones, and a machine that has 2 GiB left."""
    monkeypatch.setattr(_process, "free_memory", lambda: 2 << 30)
    model = _model([helper.make_node("Expand", ["x", "shape"], ["e"]), helper.make_node("Add", ["e", "e"], ["y"])],
                   [_info("x", [1]), _info("shape", [1], TensorProto.INT64)], [_info("y", None)])  # fmt: skip
    with pytest.raises(OracleError, match=r"memory|alloc"):
        _oracle(model, implementation).run({"x": X[0, :1], "shape": np.array([1 << 34])})


def test_what_the_worker_says_is_numbers_only() -> None:
    ours, theirs = socket.socketpair()
    _wire.send(
        ours, {"do": "run"}, [np.arange(6, dtype="int16").reshape(2, 3), np.zeros((0, 4), "float32"), np.float64(2)]
    )
    message, arrays, files = _wire.receive(theirs)
    assert message == {"do": "run"}
    assert [each.tolist() for each in arrays] == [[[0, 1, 2], [3, 4, 5]], [], 2.0]
    assert files == []
    for dtype in ("object", "O", "S4", "datetime64[s]"):
        header = b'{"message": {}, "arrays": [["%s", [1]]]}' % dtype.encode()
        ours.sendall(_wire._HEAD.pack(len(header)) + header + bytes(64))
        with pytest.raises(_wire.ClosedError):
            _wire.receive(theirs)
        ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(_wire.ClosedError):
        _wire.receive(theirs)


# ---- the next implementation


def _lstm(batch: Any) -> onnx.ModelProto:
    weights = {
        "w": RNG.standard_normal((1, 16, 3)).astype("float32"),
        "r": RNG.standard_normal((1, 16, 4)).astype("float32"),
    }
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    return _model([node], [_info("x", [5, batch, 3])], [_info("y", None)], weights)


def test_onnx_runtime_may_end_its_process() -> None:
    """An LSTM of no sequences: a division by zero or an abort, by its version."""
    try:
        _oracle(_lstm("b")).run({"x": np.zeros((5, 0, 3), "float32")})
        pytest.skip("this ONNX Runtime runs it")
    except OracleError as error:
        assert isinstance(error, OracleEndedError)
        assert str(error).startswith("onnxruntime ended with SIG")
    verified = compile(_lstm("b"), {"x": np.zeros((5, 0, 3), "float32")}).manifest["verified"]
    assert verified["reference"].startswith("onnx.reference")
    assert verified["reference_because"].endswith("on these inputs")
    assert verified["runs"] == 4


def _masked(
    shape: list[Any], opset: int, causal: bool = False
) -> tuple[onnx.ModelProto, dict[str, np.ndarray], np.ndarray]:
    """Attention with a mask of keys, which ONNX Runtime 1.31 refuses when it runs; and the right value."""
    q = RNG.standard_normal((2, 2, 4, 8)).astype("float32")
    mask = np.array([[[[1, 1, 1, 0]]], [[[1, 0, 0, 0]]]], bool)
    taken = mask & np.tri(4, dtype=bool) if causal else mask
    scores = q.astype("float64") @ q.astype("float64").transpose(0, 1, 3, 2) / np.sqrt(8)
    p = np.exp(np.where(taken, scores, -np.inf) - scores.max(-1, keepdims=True))
    node = helper.make_node("Attention", ["q", "q", "q", "m"], ["y"], is_causal=int(causal))
    inputs = [_info("q", q.shape), _info("m", shape, TensorProto.BOOL)]
    return (
        _model([node], inputs, [_info("y", q.shape)], opset=opset),
        {"q": q, "m": mask},
        p / p.sum(-1, keepdims=True) @ q,
    )


def _normalization(axis: int, rows: list[int]) -> bytes:
    node = helper.make_node("LayerNormalization", ["x", "w"], ["y"], axis=axis)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in (("x", rows), ("w", [3]))]
    graph = helper.make_graph([node], "g", infos, [])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return model


def test_inference_tells_types_refuses_and_may_end_its_process() -> None:
    found = infer_types(_normalization(1, [2, 3]))
    dims = onnx.TypeProto.FromString(found["y"]).tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 3]
    with pytest.raises(OracleError, match="axis"):
        infer_types(_normalization(-7, [2, 3]))
    try:  # onnx 1.23.2 reads outside of the shape
        infer_types(_normalization(2**31, [2, 3]))
    except OracleError as error:
        assert "\n" not in str(error)
    assert infer_types(_normalization(1, [2, 3])) == found


def test_inference_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_INFERENCE", 0.0)
    with pytest.raises(OracleEndedError, match="ended with SIGKILL"):
        for _ in range(1000):  # one that came to its end before the limit is no fault
            infer_types(_normalization(1, [2, 3]))


@pytest.mark.parametrize(
    ("opset", "given", "causal"), [(23, True, False), (24, True, True), (24, False, False), (25, True, True)]
)
def test_the_reference_is_asked_where_the_runtime_fails_when_it_runs(opset: int, given: bool, causal: bool) -> None:
    model, inputs, wanted = _masked([2, 1, 1, 4], opset, causal)
    artifact = compile(model, inputs if given else None)
    np.testing.assert_allclose(maas_rt.load(artifact).run(inputs)["y"], wanted, atol=1e-5)
    verified = artifact.manifest["verified"]
    if verified["reference"] != "onnx":  # a later ONNX Runtime takes it
        assert verified["reference"].startswith("onnx.reference")
        assert "Attention" in verified["reference_because"]
        assert len(verified["reference_because"]) < 200


@pytest.mark.parametrize("x", [[0, 2, np.nan, 1], [-np.inf, 1, 2, -3], [np.inf, 1, 2, -3], [3e38, -3e38, 1, 0]])
def test_numbers_that_have_no_range_are_quantized_to_0(x: list[float]) -> None:
    """The reference casts NaN to uint8 then, and took the zero point for 255."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    outputs = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("y", 2, [4]), ("s", 1, []), ("z", 2, []))]
    graph = helper.make_graph([node], "g", [], outputs, [helper.make_tensor("x", TensorProto.FLOAT, [4], x)])
    got = maas_rt.load(compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]))).run({})
    assert not got["y"].any() and got["z"] == 0 and not np.isfinite(got["s"])


@pytest.mark.parametrize("shape", [[], [3], [6, 0]])
def test_a_range_of_nothing_has_the_scale_0(shape: list[int]) -> None:
    """As ONNX's text computes it; ONNX Runtime has 1, and the reference has 1 / 255, or refuses a tensor without elements."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    outputs = [_info("y", shape, TensorProto.UINT8), _info("s", []), _info("z", [], TensorProto.UINT8)]
    artifact = compile(_model([node], [], outputs, {"x": np.zeros(shape, np.float32)}))
    assert artifact.manifest["verified"]["status"] == "passed"
    got = maas_rt.load(artifact.to_bytes()).run({})
    assert not got["y"].any() and got["s"] == 0 and got["z"] == 0


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("LSTM", {"clip": 0.5}), ("LSTM", {"input_forget": 1}), ("LSTM", {"activations": ["Relu", "Tanh", "Tanh"]}),
        ("GRU", {"clip": 0.0}), ("GRU", {"activations": ["Sigmoid", "Relu"]}), ("RNN", {"clip": 0.5}),
    ],
)  # fmt: skip
def test_the_reference_does_not_answer_without_what_it_leaves_out(kind: str, attributes: dict[str, Any]) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = {n: RNG.standard_normal((1, 2 * gates, 2)).astype(np.float32) for n in "wr"}
    usual = {"LSTM": ["sigmoid", "Tanh", "tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[kind]
    results = []
    for given in ({}, {"activations": usual}):
        node = helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=2, **given)
        oracle = _oracle(_model([node], [_info("x", [3, 1, 2])], [_info("y", None)], weights), "onnx.reference")
        results.append(oracle.run({"x": np.ones((3, 1, 2), np.float32)})["y"])
    np.testing.assert_array_equal(*results)
    node = helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=2, **attributes)
    oracle = _oracle(_model([node], [_info("x", [3, 1, 2])], [_info("y", None)], weights), "onnx.reference")
    with pytest.raises(OracleError, match="onnx.reference knows no clip"):
        oracle.run({"x": np.ones((3, 1, 2), np.float32)})


def test_a_wrong_result_beside_such_an_operator_is_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.codegen import _body
    from tvm import tirx

    original = _body.BodyBuilder._call

    def wrong(self: Any, node: Any, env: Any) -> Any:
        return original(self, tirx.cos(node.args[0]) if node.op.name == "tirx.sin" else node, env)

    monkeypatch.setattr(_body.BodyBuilder, "_call", wrong)
    model, inputs, _ = _masked([2, 1, 1, 4], 23)
    model.graph.node[0].output[0] = "a"
    model.graph.node.append(helper.make_node("Sin", ["a"], ["y"], name="wave"))
    with pytest.raises(VerificationError, match=r"wave \(Sin\)"):
        compile(model, inputs)


def _first_says(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    """What ONNX Runtime answers is `wrong(answer)`."""
    run = Oracle.run

    def lying(self: Oracle, inputs: Any) -> Any:
        answer = run(self, inputs)
        return {k: wrong(v) for k, v in answer.items()} if self.implementation == "onnxruntime" else answer

    monkeypatch.setattr(Oracle, "run", lying)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda v: v + 1, "a relative error of"),
        (lambda v: v[:1], "its shape is"),
        (lambda v: v + RNG.standard_normal(v.shape, "float32"), ""),  # memory that nobody wrote
    ],
)
def test_two_that_agree_are_right(monkeypatch: pytest.MonkeyPatch, wrong: Any, said: str) -> None:
    """What ONNX Runtime alone sees otherwise is its own fault, and the manifest says so; what neither gives is still refused."""
    _first_says(monkeypatch, wrong)
    verified = compile(_double()).manifest["verified"]
    assert verified["reference"].startswith("onnx.reference")
    assert verified["reference_because"].startswith("onnxruntime") and said in verified["reference_because"]
    assert verified["max_relative_error"] < 1e-6
    tripled = lambda *given: {name: 3 * value for name, value in run_compiled(*given).items()}  # noqa: E731
    monkeypatch.setattr("maas_rt.compiler.verify._run.run_compiled", tripled)
    with pytest.raises(VerificationError):
        compile(_double())


def test_drawn_sizes_below_nothing_are_refused_as_others() -> None:
    """Scales of a Resize are drawn like any floats: where an extent would be -1, the next inputs are asked."""
    image = {"x": RNG.standard_normal((1, 1, 4, 4)).astype("float32")}
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode="cubic", coordinate_transformation_mode="align_corners"
    )
    model = _model([node], [_info("s", [4])], [_info("y", None)], image, opset=19)
    assert compile(model).manifest["verified"]["status"] == "passed"


def test_the_reference_keeps_to_the_types_of_the_model() -> None:
    """ONNX's reference computes Adam with an integer T in float64; the model says float32."""
    names = "R T X G V H"
    infos = [
        _info(n, [] if n in "RT" else [2], TensorProto.INT64 if n == "T" else TensorProto.FLOAT) for n in names.split()
    ]
    outputs = ["x", "v", "h"]
    node = helper.make_node("Adam", names.split(), outputs, domain="ai.onnx.preview.training", alpha=0.95, beta=0.1)
    model = _model([node], infos, [_info(name, [2]) for name in outputs])
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    assert compile(model).manifest["verified"]["max_relative_error"] <= 1e-5


def test_without_an_implementation_that_runs_nothing_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _double()

    def gone(self: Oracle) -> None:
        raise OracleError(f"{self.implementation} ended with SIGSEGV when it opened the model", opening=True)

    monkeypatch.setattr(Oracle, "open", gone)
    with pytest.raises(
        CompileError, match=r"nothing to verify against \(onnxruntime ended .*; onnx.reference ended .*--no-verify"
    ) as caught:
        compile(model)
    assert "real" not in str(caught.value)  # no inputs would help


def test_opening_has_its_own_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Oracle.open

    def slow(self: Oracle) -> None:
        if self.implementation == "onnxruntime":
            self._worker = None
            time.sleep(2)
            raise OracleError("killed")
        opened(self)

    monkeypatch.setattr(Oracle, "open", slow)
    monkeypatch.setattr(_configs, "VerifyOptions", lambda **more: VerifyOptions(seconds=1.0, **more))
    verified = compile(_double()).manifest["verified"]
    assert verified["reference"].startswith("onnx.reference")
    assert verified["reference_because"] == "onnxruntime did not open the model within 1 s"


def test_opening_many_parts_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Oracle.open

    def slow(self: Oracle) -> None:
        time.sleep(1.5)
        opened(self)

    monkeypatch.setattr(Oracle, "open", slow)
    monkeypatch.setattr(_configs, "VerifyOptions", lambda **more: VerifyOptions(seconds=1.0, **more))
    monkeypatch.setattr(_reference, "_MANY", 1)
    model = _double()
    for number in range(30):
        model.graph.initializer.append(helper.make_tensor(f"unused{number}", TensorProto.FLOAT, [1], [0.0]))
    assert "reference_because" not in compile(model).manifest["verified"]


# ---- sums that saturate


def _product(constant: bool) -> onnx.ModelProto:
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    weights = RNG.integers(-128, 128, (8, 4)).astype("int8")
    inputs = [_info("x", [2, 8], TensorProto.UINT8), *([] if constant else [_info("w", [8, 4], TensorProto.INT8)])]
    return _model([node], inputs, [_info("y", None, TensorProto.INT32)], {"w": weights} if constant else None)


@pytest.mark.parametrize("operator", sorted(set(_products.INTEGER_PRODUCTS) - set(_products._SAME_KERNEL)))
@pytest.mark.parametrize(("constant", "precise"), [(False, True), (True, True), (True, False)])
def test_whether_products_are_exact_is_measured(
    operator: str, constant: bool, precise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _products.products_are_exact(_double()) is None
    if "vnni" in Path("/proc/cpuinfo").read_text():
        assert _products._exact.__wrapped__(operator, constant, precise)
    import onnxruntime

    class Saturates:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self, outputs: None, inputs: dict[str, Any]) -> list[Any]:
            return [np.full((1, 16), 32767)]

    fake = types.SimpleNamespace(**{**vars(onnxruntime), "InferenceSession": Saturates})
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    assert not _products._exact.__wrapped__(operator, constant, precise)


def test_what_saturates_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from maas_rt.compiler.oracle import _sessions

    monkeypatch.setattr(_sessions, "products_are_exact", lambda model, precise=True: False)
    request = {"implementation": "onnxruntime", "outputs": ["y"], "texts": [], "weights": []}
    with pytest.raises(ValueError, match="saturate"):
        _sessions.open_session(request, [np.frombuffer(_product(True).SerializeToString(), np.uint8)], [])


def test_the_reference_knows_negative_powers_of_integers() -> None:
    """numpy refuses them, and ONNX Runtime computes in float64, which what wraps around shows."""
    powers = {"p": np.array([40, -3, -2, -1, 5], "int32")}
    node = helper.make_node("Pow", ["x", "p"], ["y"])
    model = _model([node], [_info("x", [5], TensorProto.INT32)], [_info("y", [5], TensorProto.INT32)], powers)
    found = compile(model, {"x": np.array([3, 0, 1, -1, 2], "int32")}).manifest["verified"]
    assert found["status"] == "passed" and found["reference"].startswith("onnx.reference")


def test_the_reference_normalises_every_channel() -> None:
    """It takes as many as the batch has samples, and sqrt(-inf) for (-inf)^0.5; ONNX Runtime has no answer, the operator set being newer."""
    rng = np.random.default_rng(0)
    for samples, alpha, beta in ((1, 0.5, 0.75), (3, 0.5, 0.5), (5, -np.inf, 0.5)):
        node = helper.make_node("LRN", ["x"], ["y"], alpha=alpha, beta=beta, size=3)
        model = _model([node], [_info("x", [samples, 5, 2, 2])], [_info("y", [samples, 5, 2, 2])], opset=28)
        x = rng.standard_normal((samples, 5, 2, 2), np.float32)
        artifact = compile(model, {"x": x})
        assert artifact.manifest["verified"]["reference"].startswith("onnx.reference")
        padded = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        sums = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]).astype(np.float64)
        got = maas_rt.load(artifact.to_bytes(), threads=1).run({"x": x})["y"]
        np.testing.assert_allclose(got, x / np.float_power(1 + alpha / 3 * sums, beta), rtol=1e-5)


def test_the_reference_gives_products_as_they_were_before_the_softcap() -> None:
    """Mode 0 of Attention's last output."""
    node = helper.make_node("Attention", ["q", "q", "q"], ["y", "", "", "p"], softcap=0.5)
    model = _model([node], [_info("q", [1, 2, 3, 4])], [_info("y", [1, 2, 3, 4]), _info("p", [1, 2, 3, 3])], opset=24)
    verified = compile(model).manifest["verified"]
    assert verified["status"] == "passed" and verified["max_relative_error"] < 1e-5

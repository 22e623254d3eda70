"""Models that remember: State objects are made, passed, copied, reset and looked into."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

import maas_rt
from tests import _tiny

ONE = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def model() -> maas_rt.Model:
    return maas_rt.load(_tiny.accumulator(), threads=1)


def test_a_state_is_carried_from_run_to_run(model: maas_rt.Model) -> None:
    state = model.state()
    for expected in (11, 12, 13):
        np.testing.assert_array_equal(model.run({"x": ONE}, state=state)["y"], expected * ONE)
    assert model.states[0].name == "sum"
    assert state.keys() == ("sum",)


def test_states_do_not_mix(model: maas_rt.Model) -> None:
    a, b = model.state(), model.state()
    model.run({"x": ONE}, state=a)
    np.testing.assert_array_equal(model.run({"x": ONE * 5}, state=b)["y"], 15)
    np.testing.assert_array_equal(model.run({"x": ONE}, state=a)["y"], 12)


def test_clone_and_reset(model: maas_rt.Model) -> None:
    state = model.state()
    model.run({"x": ONE}, state=state)
    copy = state.clone()
    state.reset()
    np.testing.assert_array_equal(model.run({"x": ONE}, state=state)["y"], 11)
    np.testing.assert_array_equal(model.run({"x": ONE}, state=copy)["y"], 12)


def test_a_state_can_be_read_and_written(model: maas_rt.Model) -> None:
    state = model.state()
    view = state["sum"]
    np.testing.assert_array_equal(view, 10 * ONE)
    model.run({"x": ONE}, state=state)
    np.testing.assert_array_equal(view, 11)
    view[...] = 100
    np.testing.assert_array_equal(model.run({"x": ONE}, state=state)["y"], 101)
    del state
    gc.collect()
    np.testing.assert_array_equal(view, 101)  # the view keeps the state alive


def test_a_state_is_a_mapping_of_its_values(model: maas_rt.Model) -> None:
    state = model.state()
    assert (list(state), len(state), "sum" in state, "k" in state, 0 in state) == (["sum"], 1, True, False, False)
    state["sum"] = 5 * ONE
    assert dict(state)["sum"].tolist() == (5 * ONE).tolist()
    np.testing.assert_array_equal(model.run({"x": ONE}, state=state)["y"], 6)
    for wrong in (np.ones((1, 5), np.float32), np.ones((1, 4)), None):
        with pytest.raises(maas_rt.InvalidArgumentError, match=r"'sum' is float32\[1, 4\] and cannot be set"):
            state["sum"] = wrong
    with pytest.raises(maas_rt.InvalidArgumentError, match="no state 0; it has: sum"):
        state[0]  # type: ignore[index]


def test_mistakes(model: maas_rt.Model) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="state"):
        model(ONE)
    with pytest.raises(maas_rt.InvalidArgumentError, match="another model"):
        model.run({"x": ONE}, state=maas_rt.load(_tiny.accumulator()).state())
    with pytest.raises(maas_rt.InvalidArgumentError, match="no state 'k'; it has: sum"):
        model.state()["k"]


def test_a_failed_run_leaves_the_state_as_it_was(model: maas_rt.Model) -> None:
    state = model.state()
    with pytest.raises(maas_rt.InvalidArgumentError):
        model.run({"x": ONE[:, :3]}, state=state)
    np.testing.assert_array_equal(model.run({"x": ONE}, state=state)["y"], 11)


def test_the_sentence_for_a_state_that_is_missing_is_pythons(model: maas_rt.Model) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=r"state = model.state\(\)"):
        model(ONE)


def test_states_and_models_are_copied_and_pickled(model: maas_rt.Model) -> None:
    state = model.state()
    model.run({"x": ONE}, state=state)
    together, carried = pickle.loads(pickle.dumps((model, state)))
    for m, s in ((model, copy.copy(state)), (model, copy.deepcopy(state)), (together, carried)):
        np.testing.assert_array_equal(m.run({"x": ONE}, state=s)["y"], 12)
    np.testing.assert_array_equal(state["sum"], 11)
    assert copy.copy(model) is model
    assert copy.deepcopy(model) is model
    with pytest.raises(maas_rt.InvalidArgumentError, match="send its Model"):
        pickle.dumps(model.session())


def test_a_state_that_comes_alone_fits_the_model_of_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "model.mrt"
    path.write_bytes(_tiny.accumulator())
    model = maas_rt.load(path)
    state = model.state()
    model.run({"x": ONE}, state=state)
    np.testing.assert_array_equal(model.run({"x": ONE}, state=pickle.loads(pickle.dumps(state)))["y"], 12)


def test_a_buffer_that_the_result_does_not_fit_leaves_the_state() -> None:
    b = _tiny.Builder("a state, and an output of open size")
    b.symbol("n", 1, 64)
    x, z, total = b.input("x", ["n", 4]), b.input("z", [1, 4]), b.state("sum", np.full((1, 4), 10, np.float32))
    y, following = b.value("y", ["n", 4]), b.value("following", [1, 4])
    b.kernel("softmax_f32", [x], [y])
    b.gemm(z, np.eye(4, dtype=np.float32), following, residual=total)
    b.copy(following, total)
    model = maas_rt.load(b.file(y, following), threads=1)
    state = model.state()
    inputs = {"x": np.zeros((2, 4), np.float32), "z": ONE}
    wrong = [np.zeros((3, 4), np.float32), np.zeros((1, 4), np.float32), np.zeros((4, 3), np.float32).T]
    for buffer in wrong:
        with pytest.raises(maas_rt.InvalidArgumentError, match="shape"):
            model.run(inputs, out={"y": buffer}, state=state)
        with pytest.raises(maas_rt.InvalidArgumentError, match="shape"):
            model.run_async(inputs, out={"y": buffer}, state=state).result()
        np.testing.assert_array_equal(state["sum"], 10)
    with pytest.raises(maas_rt.InvalidArgumentError, match="'following' lies in the run's state"):
        model.run(inputs, out={"following": state["sum"]}, state=state)
    np.testing.assert_array_equal(state["sum"], 10)
    strided = np.zeros((4, 2), np.float32).T
    assert model.run(inputs, out={"y": strided}, state=state)["y"] is strided
    np.testing.assert_array_equal(strided, 0.25)
    np.testing.assert_array_equal(state["sum"], 11)
    model.run({"x": inputs["x"], "z": state["sum"]}, state=state)  # its own memory as an input
    np.testing.assert_array_equal(state["sum"], 22)


def test_two_outputs_in_one_buffer_are_refused() -> None:
    b = _tiny.Builder("two outputs")
    x = b.input("x", [2, 4])
    y, z = b.value("y", [2, 4]), b.value("z", [2, 4])
    b.kernel("softmax_f32", [x], [y])
    b.kernel("softmax_f32", [y], [z])
    model = maas_rt.load(b.file(y, z), threads=1)
    memory, data = np.zeros((3, 8), np.float32), np.eye(2, 4, dtype=np.float32)
    expected = model.run({"x": data})
    for one, other in [(memory[0], memory[0]), (memory.ravel()[:8], memory.ravel()[7:15])]:
        with pytest.raises(maas_rt.InvalidArgumentError, match="'y' and 'z' share memory"):
            model.run({"x": data}, out={"y": one.reshape(2, 4), "z": other.reshape(2, 4)})
    with pytest.raises(maas_rt.InvalidArgumentError, match="'y' and 'z' share memory"):
        model.run({"x": data}, out={"y": memory[:2, ::2], "z": memory[1:, ::2]})
    for one, other in [(memory[:2, ::2], memory[:2, 1::2]), (memory[:2, :4], memory[1:, 4:])]:
        got = model.run({"x": data}, out={"y": one, "z": other})
        assert got["y"] is one
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value)

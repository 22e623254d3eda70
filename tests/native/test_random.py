"""Models that draw random numbers: the seed of a run wherever runs are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import maas_rt
from maas_rt import InvalidArgumentError, capi
from maas_rt._cli import main
from tests import _tiny

ONE = {"x": np.ones((3, 5), np.float32)}
WRONG = (-1, 2**64, 1.0, True, "7", np.float32(1), [1])
_DRAW = """
import sys, numpy, maas_rt
model = maas_rt.load(sys.argv[1], threads=int(sys.argv[2]))
print(model.run({"x": numpy.ones((50021, 3), numpy.float32)}, seed=2**63 + 9)["y"].tobytes().hex()[:4000000:97])
"""


@pytest.fixture(scope="module")
def model() -> maas_rt.Model:
    return maas_rt.load(_tiny.noise())


def test_the_same_seed_gives_the_same_numbers_and_no_seed_gives_others(model: maas_rt.Model) -> None:
    assert model.draws and not maas_rt.load(_tiny.mlp()).draws
    assert [info.name for info in model.inputs] == ["x"]
    drawn = [model.run(ONE, seed=seed)["y"] for seed in (0, 1, 2**64 - 1, np.uint64(2**63))]
    for seed, y in zip((0, 1, 2**64 - 1, 2**63), drawn, strict=True):
        np.testing.assert_array_equal(model.run(ONE, seed=seed)["y"], y)
        np.testing.assert_array_equal(model.run_async(ONE, seed=seed).result()["y"], y)
        np.testing.assert_array_equal(model.session().run(ONE, seed=seed)["y"], y)
    drawn += [model.run(ONE)["y"] for _ in range(3)] + [model.run(ONE, seed=None)["y"], model(ONE["x"])]
    for i, y in enumerate(drawn):
        for z in drawn[i + 1 :]:
            assert not (y == z).any()


def test_a_session_tells_its_seed(model: maas_rt.Model) -> None:
    session = model.session()
    session.run(ONE, seed=11)
    assert session.seed == 11
    y = session.run(ONE)["y"]
    np.testing.assert_array_equal(model.run(ONE, seed=session.seed)["y"], y)
    plain = maas_rt.load(_tiny.mlp()).session()
    with pytest.raises(InvalidArgumentError, match="draws no random numbers"):
        _ = plain.seed


@pytest.mark.parametrize("seed", WRONG)
def test_what_is_no_seed(model: maas_rt.Model, seed: object) -> None:
    for run in (model.run, capi.load(_tiny.noise()).run):
        with pytest.raises(InvalidArgumentError, match=r"^seed is .* and must be an integer from 0 to 2\*\*64 - 1$"):
            run(ONE, seed=seed)  # type: ignore[arg-type]


def test_a_model_that_draws_nothing_takes_no_notice_of_a_seed() -> None:
    model, x = maas_rt.load(_tiny.mlp()), {"x": np.ones((1, 16), np.float32)}
    np.testing.assert_array_equal(model.run(x, seed=3)["y"], model.run(x)["y"])


def test_the_other_binding(model: maas_rt.Model) -> None:
    other = capi.load(_tiny.noise())
    assert other.draws and not capi.load(_tiny.mlp()).draws
    np.testing.assert_array_equal(other.run(ONE, seed=5)["y"], model.run(ONE, seed=5)["y"])
    assert not (other.run(ONE)["y"] == other.run(ONE)["y"]).any()


def test_the_names_of_onnx_runtime() -> None:
    """After set_seed the first, second, ... runs of all sessions are alike; a session that was there before goes on without."""
    before = maas_rt.InferenceSession(_tiny.noise())
    try:
        maas_rt.set_seed(-4)
        sessions = [maas_rt.InferenceSession(_tiny.noise()) for _ in range(2)]
        first, second = ([session.run(None, ONE)[0] for _ in range(3)] for session in sessions)
        maas_rt.set_seed(-3)
        third = [maas_rt.InferenceSession(_tiny.noise()).run(None, ONE)[0]]
    finally:
        sys.modules["maas_rt._onnxruntime"]._seed = None  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, second)
    drawn = [*first, *third, *(before.run(None, ONE)[0] for _ in range(2))]
    for i, y in enumerate(drawn):
        for z in drawn[i + 1 :]:
            assert not (y == z).any()
    with pytest.raises(InvalidArgumentError, match="seed is 'x'"):
        maas_rt.set_seed("x")  # type: ignore[arg-type]


def test_the_same_bits_on_every_instruction_set_and_number_of_threads(tmp_path: Path) -> None:
    (tmp_path / "noise.mrt").write_bytes(_tiny.noise())
    runs = []
    for isa, threads in (("", "1"), ("scalar", "2")):
        environment = {**os.environ, "MAAS_RT_ISA": isa} if isa else dict(os.environ)
        command = [sys.executable, "-c", _DRAW, str(tmp_path / "noise.mrt"), threads]
        runs.append(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert len(runs[0]) > 1000 and runs[0] == runs[1]


def test_children_draw_seeds_of_their_own(model: maas_rt.Model) -> None:
    def drawn() -> bytes:
        return bytes(model.run(ONE)["y"].tobytes())

    drawn()
    ends = []
    for _ in range(2):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, drawn())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            ends.append(pipe.read())
        os.waitpid(child, 0)
    assert len(ends[0]) == 60 and len({*ends, drawn()}) == 3


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("noise.mrt").write_bytes(_tiny.noise())
    np.savez("in.npz", **ONE)

    def run(*options: str) -> tuple[np.ndarray, str]:
        assert main(["run", "noise.mrt", "--input", "in.npz", "--output", "out.npz", *options]) == 0
        return np.load("out.npz")["y"], capsys.readouterr().out

    (a, told), (b, _) = run(), run("--seed", "3")
    assert not (a == b).any()
    np.testing.assert_array_equal(run("--seed", "3")[0], b)
    np.testing.assert_array_equal(run("--seed", told.split("--seed ")[1].split()[0])[0], a)
    assert main(["run", "noise.mrt", "--input", "in.npz", "--seed", "-1"]) == 1
    assert "seed is -1 and must be an integer" in capsys.readouterr().err
    assert main(["bench", "noise.mrt", "--input", "in.npz", "--seconds", "0.1", "--seed", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] > 0
    assert main(["profile", "noise.mrt", "--input", "in.npz", "--runs", "1", "--seed", "3"]) == 0
    assert "random_normal_f32" in capsys.readouterr().out

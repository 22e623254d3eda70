"""Commands on models written by hand: states, mistakes, and an installation that has numpy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maas_rt import _container
from maas_rt._cli import main
from maas_rt._whole_file import write_npz
from tests import _tiny

BFLOAT = 4  # MRT_BFLOAT
ONE = np.ones((1, 4), np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sum.mrt").write_bytes(_tiny.accumulator())
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    np.savez(tmp_path / "one.npz", x=ONE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> int:
    try:
        return main(list(arguments))
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.usefixtures("folder")
def test_models_with_states_run_from_their_initial_ones() -> None:
    assert command("bench", "sum.mrt", "--seconds", "0.1") == 0
    assert command("profile", "sum.mrt", "--runs", "2") == 0
    for _ in range(2):
        assert command("run", "sum.mrt", "--input", "one.npz", "--output", "out.npz") == 0
        np.testing.assert_array_equal(np.load("out.npz")["y"], 11)


@pytest.mark.usefixtures("folder")
def test_a_state_goes_on_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    for expected in (11, 12, 13):
        assert command("run", "sum.mrt", "--input", "one.npz", "--output", "out.npz", "--state", "state.npz") == 0
        np.testing.assert_array_equal(np.load("out.npz")["y"], expected)
        np.testing.assert_array_equal(np.load("state.npz")["sum"], expected)
    for wrong, part in (
        ({"sum": ONE[0]}, "state 'sum' is float32[4], expected float32[1, 4]"),
        ({"x": ONE}, "holds x"),
    ):
        np.savez("wrong.npz", **wrong)
        assert command("run", "sum.mrt", "--input", "one.npz", "--state", "wrong.npz") == 1
        assert part in capsys.readouterr().err
    np.savez("in.npz", x=np.ones((1, 16), np.float32))
    assert command("run", "mlp.mrt", "--input", "in.npz", "--state", "state.npz") == 1
    assert "keeps no state" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["serve", ".", "--port", "99999"], "'99999' is no port"),
        (["serve", ".", "--max-body", "-1"], "'-1' is no size"),
        (["demo", "--epochs", "-3"], "'-3' is no number of epochs"),
        (["bench", "mlp.mrt", "--shape", "x:99999999999999999999,16"], "choose less"),
        (["run", "absent.mrt", "--input", "one.npz"], "'absent.mrt' does not exist"),
        (
            ["run", "sum.mrt", "--input", "one.npz", "--output", "none/out.npz"],
            "error: none/out.npz could not be written",
        ),
        (["run", "sum.mrt", "--input", "one.npz", "--output", "."], ". is a directory"),
        (["run", "sum.mrt", "--input", "one.npz", "--output", "./sum.mrt"], "--output and the model are one file"),
        (
            ["run", "sum.mrt", "--input", "one.npz", "--output", "s.npz", "--state", "./s.npz"],
            "--output and --state are",
        ),
        (["profile", "sum.mrt", "--runs", "0"], "'0' is no number of runs"),
        (["profile", "sum.mrt", "--runs", "1", "--trace", "none/t.json"], "none/t.json could not be written"),
        (["bench", "sum.mrt", "--seconds", "nan"], "'nan' is no time"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*arguments) != 0
    message = capsys.readouterr().err
    assert part in message
    assert "Traceback" not in message


def test_elements_that_numpy_has_no_name_for_and_outputs_called_file(folder: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    b = _tiny.Builder()
    given, result = b.input("x", [2, 3], "float16"), b.value("y", [3, 2], "float16")
    for value in b.plan.values:
        value.dtype_code = BFLOAT
    b.kernel("transpose", [given], [result], perm=[1, 0])
    (folder / "wide.mrt").write_bytes(b.file(result))
    x = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    np.savez("wide.npz", x=x)
    assert command("run", "wide.mrt", "--input", "wide.npz", "--output", "out.npz") == 0
    with np.load("out.npz") as written:
        np.testing.assert_array_equal(written["y"].view(ml_dtypes.bfloat16), x.T)
    write_npz("named.npz", {"file": ONE, "allow_pickle": ONE})
    assert set(np.load("named.npz").files) == {"file", "allow_pickle"}


WITH_NUMPY_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "maas_rt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from maas_rt._cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_look_at_a_file_runs_none_of_its_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code that this CPU cannot load, as that of another architecture, is shown as what it is."""
    sections = [_container.Section(s.kind, bytes(s.data)) for s in _container.read(_tiny.mlp()).sections]
    code = _container.Section(_container.SectionKind.CODE, b"no code at all", "x86-64")
    _container.save("coded.mrt", [*sections, code])
    assert command("inspect", "coded.mrt") == 0
    assert "section   code x86-64: 14 B" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["inspect", "mlp.mrt"], 0, ""),
        (["bench", "sum.mrt", "--seconds", "0.1"], 0, ""),
        (["ops"], 1, "pip install 'maas-rt[compiler]'"),
        (["demo"], 1, "pip install 'maas-rt[compiler]'"),
        (["verify", "mlp.mrt", "--against", "mlp.mrt"], 1, "pip install 'maas-rt[compiler]'"),
        (["compile", "one.npz", "-o", "out.mrt"], 1, "pip install 'maas-rt[compiler]'"),
        (["serve", "."], 1, "pip install 'maas-rt[serve]'"),
    ],
)
def test_with_numpy_alone(folder: Path, arguments: list[str], status: int, part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_NUMPY_ALONE, *arguments], capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.returncode == status, done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr

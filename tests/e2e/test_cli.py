"""The command line as a user types it: each command once in full, and each mistake as one sentence."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import maas_rt
from tests._command_line import CommandLine, command_line

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 5)
        self.second = torch.nn.Linear(5, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def build():
    return Net()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module `cli_net`, its weights in three forms, an exported program, real inputs, and a compiled net.mrt."""
    root = tmp_path_factory.mktemp("cli")
    (root / "cli_net.py").write_text(SOURCE)
    namespace: dict[str, object] = {"__name__": "cli_net"}
    exec(compile(SOURCE, "cli_net.py", "exec"), namespace)
    torch.manual_seed(0)
    net = namespace["build"]().eval()  # type: ignore[operator]
    torch.save(net.state_dict(), root / "net.pt")
    torch.save({f"module._orig_mod.{k}": v for k, v in net.state_dict().items()}, root / "ddp.pt")
    x = torch.randn(4, 6)
    torch.export.save(
        torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=1, max=16)},)), root / "net.pt2"
    )
    np.savez(root / "real.npz", x=x.numpy())
    np.savez(root / "expected.npz", y=net(x).detach().numpy())
    done = run(root, "compile", "net.pt2", "-o", "net.mrt")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def command(folder: Path) -> Iterator[CommandLine]:
    with command_line(folder) as command:
        yield command


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maas_rt", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )


def _one_sentence(done: subprocess.CompletedProcess[str], command: str) -> str:
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"maas-rt {command}: error: ")
    return lines[0]


def test_compile_says_what_it_wrote(folder: Path) -> None:
    done = run(folder, "compile", "net.pt2", "-o", "again.mrt", "--name", "net")
    assert done.returncode == 0
    assert "wrote again.mrt" in done.stdout
    assert "verified" in done.stdout
    assert (folder / "again.mrt").read_bytes() == (folder / "net.mrt").read_bytes()


@pytest.mark.parametrize("weights", ["net.pt", "ddp.pt"])
def test_compile_weights_with_a_factory(folder: Path, command: CommandLine, weights: str) -> None:
    output = f"{weights}.mrt"
    done = command(
        "compile",
        weights,
        "-o",
        output,
        "--model",
        "cli_net:build",
        "--input-shape",
        "x:2,6",
        "--dynamic",
        "x:0=1..8",
    )
    assert done.returncode == 0, done.stderr
    y = maas_rt.load(folder / output)(np.load(folder / "real.npz")["x"])
    np.testing.assert_allclose(y, np.load(folder / "expected.npz")["y"], rtol=1e-5, atol=1e-6)


def test_compile_to_eight_bits(folder: Path, command: CommandLine) -> None:
    torch.manual_seed(0)
    wide = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5)).eval()
    torch.export.save(torch.export.export(wide, (torch.ones(4, 6),)), folder / "wide.pt2")
    for number in range(2):
        np.savez(
            folder / f"c{number}.npz",
            input=np.random.default_rng(number).standard_normal((4, 6)).astype(np.float32),
        )
    done = command("compile", "wide.pt2", "-o", "wide.mrt", "--int8", "c0.npz", "c1.npz", "--int8-bits", "8")
    assert done.returncode == 0, done.stderr
    quantized = json.loads(command("inspect", "wide.mrt", "--json").stdout)["manifest"]["recipe"]["quantize"]
    assert (quantized["methods"][0]["activation_bits"], quantized["calibration_inputs"]) == (8, 2)
    assert (
        "recipe    2 layers int8 (activation_bits 8, bias_correction, float_share 0.06, method auto, rounding nearest, smooth), calibrated on 2 inputs"
        in command("inspect", "wide.mrt").stdout
    )
    refused = command("compile", "wide.pt2", "-o", "no.mrt", "--int8", "c0.npz", "--int8-tolerance", "1e-9")
    assert "the recipe admits 1e-09" in _one_sentence(refused, "compile")
    assert not (folder / "no.mrt").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--weights", "int4", "--group", "16"],
            "weight_only (activations float, bits 4, group 16, method mse, scales float16, symmetric)",
        ),
        (
            ["--weights", "int8", "--group", "channel", "--method", "rtn", "--asymmetric"],
            "weight_only (activations float, bits 8, group channel, method rtn, scales float16, asymmetric)",
        ),
        (
            ["--weights", "int4", "--activations", "int8"],
            "weight_only (activations int8, bits 4, group 32, method mse, scales float16, symmetric)",
        ),
        (["--int8-dynamic"], "int8_dynamic (granularity row)"),
    ],
)
def test_compile_to_few_bits_without_data(folder: Path, command: CommandLine, flags: list[str], told: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32)).eval()
    torch.export.save(torch.export.export(net, (torch.ones(4, 32),)), folder / "few.pt2")
    done = command("compile", "few.pt2", "-o", "few.mrt", *flags)
    assert done.returncode == 0, done.stderr
    assert f"2 layers {told}" in done.stdout
    assert f"recipe    2 layers {told}\n" in command("inspect", "few.mrt").stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "int4", "--int8-dynamic"], "--int8-dynamic and --weights are given, expected one of them"),
        (["--group", "16"], "--group, --method, --asymmetric and --scales are for --weights int4 or int8"),
        (
            ["--weights", "fp16", "--asymmetric"],
            "--group, --method, --asymmetric and --scales are for --weights int4 or int8",
        ),
        (["--weights", "int8", "--activations", "int8"], "--activations is for --weights int4"),
        (["--weights-tolerance", "0.1"], "--weights-tolerance is for --weights"),
        (
            ["--int8-bits", "8"],
            "--int8-bits, --int8-method, --int8-rounding and --int8-float-share are for --int8, which is not given",
        ),
        (
            ["--int8-dynamic", "--int8-method", "mse"],
            "--int8-bits, --int8-method, --int8-rounding and --int8-float-share are for --int8",
        ),
        (["--weights", "int4", "--int8-tolerance", "1"], "--int8-tolerance is for --int8 and --int8-dynamic"),
        (
            ["--int8", "real.npz", "--prune", "0.5", "--calibration", "real.npz"],
            "--int8 and --calibration are given, expected one of them",
        ),
        (["--weights", "int4", "--method", "gptq"], "the recipe has no calibration data"),
        (["--weights", "fp16", "--group", "32"], "--group"),
    ],
)
def test_flags_that_do_not_go_together_are_told(
    folder: Path, command: CommandLine, flags: list[str], words: str
) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(6, 64).eval(), (torch.ones(4, 6),)), folder / "alone.pt2")
    assert words in _one_sentence(command("compile", "alone.pt2", "-o", "none.mrt", *flags), "compile")
    assert not (folder / "none.mrt").exists()


def test_compile_with_pruning(folder: Path, command: CommandLine) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)).eval()
    torch.export.save(torch.export.export(net, (torch.ones(4, 6),)), folder / "deep.pt2")
    np.savez(folder / "calib.npz", input=np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32))
    flags = ("compile", "deep.pt2", "-o", "sparse.mrt", "--prune", "0.75", "--calibration", "calib.npz")
    done = command(*flags, "--prune-pattern", "block", "--prune-method", "wanda", "--prune-tolerance", "2")
    assert done.returncode == 0, done.stderr
    told = "1 layer pruned, 192 of 256 weights zero (75.0 %), 2 dense: "
    assert told in done.stdout
    pruned = json.loads(command("inspect", "sparse.mrt", "--json").stdout)["manifest"]["recipe"]["prune"]
    assert (pruned["method"], pruned["layers"][0]["pattern"], pruned["layers"][0]["zeros"]) == ("wanda", "4x1", 192)
    shown = command("inspect", "sparse.mrt").stdout
    assert "pruned    to 75 % zeros, block, by wanda on 16 inputs" in shown and told in shown
    assert "it is the first layer of an input" in shown
    for wrong, words in (
        (("--prune", "0.5"), "--prune looks at inputs of the model: give --calibration CALIBRATION.npz"),
        (("--prune-method", "wanda"), "are for --prune, which is not given"),
        (("--prune", "1", "--calibration", "calib.npz"), "sparsity is 1.0, expected a share of 0 or more and below 1"),
    ):
        assert words in _one_sentence(command("compile", "deep.pt2", "-o", "no.mrt", *wrong), "compile")
    assert not (folder / "no.mrt").exists()


def test_compile_with_tuning(folder: Path, command: CommandLine) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(6, 64).eval(), (torch.ones(4, 6),)), folder / "linear.pt2")
    arguments = ["compile", "linear.pt2", "-o", "tuned.mrt", "--tune", "--budget", "1m", "--tune-cache", "times"]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "tuned 1 step for " in done.stdout and "1 thread\n" in done.stdout
    kept = [json.loads(path.read_text()) for path in (folder / "times").iterdir()]
    assert [entry["key"]["task"]["contract"] for entry in kept] == ["gemm_f32"] and len(kept[0]["seconds"]) >= 2
    tuning = json.loads(command("inspect", "tuned.mrt", "--json").stdout)["manifest"]["tuning"]
    assert [step["choice"] for step in tuning["steps"]] == [kept[0]["choice"]]
    assert f"tuned     for {tuning['cpu']}, 1 thread: 1 step" in command("inspect", "tuned.mrt").stdout
    wrong = command(*arguments[:-3], "soon")
    assert wrong.returncode == 2 and "'soon' is no time; expected one as 90s, 10m or 1h" in wrong.stderr


def test_run_reads_and_writes_npz(folder: Path, command: CommandLine) -> None:
    done = command("run", "net.mrt", "--input", "real.npz", "--output", "out.npz")
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as out:
        (value,) = (out[name] for name in out.files)
    np.testing.assert_allclose(value, np.load(folder / "expected.npz")["y"], rtol=1e-5, atol=1e-6)


def test_inspect_text_and_json(folder: Path, command: CommandLine) -> None:
    text = command("inspect", "net.mrt").stdout
    for part in ("x: float32[x_dim0, 6]", "x_dim0 = 1..16", "gemm_f32", "verified  passed"):
        assert part in text, text
    facts = json.loads(command("inspect", "net.mrt", "--json").stdout)
    assert facts["bytes"] == (folder / "net.mrt").stat().st_size
    assert facts["steps"]["gemm_f32"] == 2
    assert {s["kind"] for s in facts["sections"]} >= {"manifest", "plan", "weights"}


def test_bench_json(command: CommandLine) -> None:
    done = command("bench", "net.mrt", "--threads", "1", "--shape", "x:4,6", "--seconds", "1", "--json")
    facts = json.loads(done.stdout)
    assert 0 < facts["p50_ms"] <= facts["p90_ms"] <= facts["p99_ms"]


def test_profile_table_and_trace(folder: Path, command: CommandLine) -> None:
    done = command("profile", "net.mrt", "--trace", "trace.json")
    assert done.returncode == 0, done.stderr
    assert "gemm_f32" in done.stdout
    trace = json.loads((folder / "trace.json").read_text())
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(events) == 2
    assert all(e["dur"] >= 0 and e["name"] for e in events)


def test_verify_agrees_and_disagrees(folder: Path, command: CommandLine) -> None:
    done = command("verify", "net.mrt", "--against", "net.pt2")
    assert done.returncode == 0, done.stderr
    assert "agrees with net.pt2" in done.stdout
    program = torch.export.load(folder / "net.pt2")
    program.state_dict["second.bias"].data += 1
    torch.export.save(program, folder / "other.pt2")
    assert "differ" in _one_sentence(command("verify", "net.mrt", "--against", "other.pt2"), "verify")


@pytest.mark.parametrize("name", ["", "compile", "run", "inspect", "bench", "profile", "verify", "serve", "demo"])
def test_help_teaches(command: CommandLine, name: str) -> None:
    done = command(*([name] if name else []), "--help")
    assert done.returncode == 0
    assert "maas-rt" in done.stdout
    assert len(done.stdout.splitlines()) > 8


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "nope.mrt", "--input", "real.npz"], "nope.mrt"),
        (["run", ".", "--input", "real.npz"], "directory"),
        (["run", "cli_net.py", "--input", "real.npz"], "cli_net.py"),
        (["run", "net.mrt", "--input", "cli_net.py"], "npz"),
        (["run", "net.mrt", "--input", "expected.npz"], "y"),
        (["run", "net.mrt", "--input", "real.npz", "--output", "no/such/out.npz"], "no/such"),
        (["inspect", "empty.mrt"], "empty.mrt"),
        (["bench", "net.mrt", "--shape", "x=3"], "x=3"),
        (["bench", "net.mrt", "--shape", "z:3,6"], "no input 'z'"),
        (["bench", "net.mrt", "--shape", "x:99,6"], "16"),
        (["compile", "nope.onnx", "-o", "a.mrt"], "nope.onnx"),
        (["compile", "net.pt", "-o", "a.mrt"], "--model"),
        (["compile", "net.pt", "-o", "a.mrt", "--model", "cli_net:nope", "--input-shape", "x:2,6"], "nope"),
        (
            ["compile", "net.pt", "-o", "a.mrt", "--model", "no_such_module:build", "--input-shape", "x:2,6"],
            "no_such_module",
        ),
        (["compile", "net.pt2", "-o", "no/such/a.mrt"], "no/such"),
        (["compile", "net.pt2", "-o", "."], "directory"),
        (["compile", "net.pt2", "-o", "a.mrt", "--target", "z80"], "z80"),
        (["compile", "net.pt2", "-o", "a.mrt", "--dynamic", "x"], "x"),
        (["compile", "cli_net.py", "-o", "a.mrt"], "cli_net.py"),
        (["compile", "net.pt2", "-o", "a.mrt", "--budget", "1m"], "--tune, which is not given"),
        (["compile", "empty.onnx", "-o", "a.mrt"], "empty.onnx"),
        (["compile", "empty.pt2", "-o", "a.mrt"], "empty.pt2"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(
    folder: Path, command: CommandLine, arguments: list[str], part: str
) -> None:
    for name in ("empty.mrt", "empty.onnx", "empty.pt2"):
        (folder / name).write_bytes(b"")
    before = set(os.listdir(folder))
    sentence = _one_sentence(command(*arguments), arguments[0])
    assert part in sentence
    assert set(os.listdir(folder)) - {"__pycache__"} == before - {"__pycache__"}


def test_an_unknown_isa_is_refused_and_a_known_one_runs(folder: Path) -> None:
    sentence = _one_sentence(run(folder, "run", "net.mrt", "--input", "real.npz", MAAS_RT_ISA="mmx"), "run")
    assert "mmx" in sentence
    done = run(folder, "run", "net.mrt", "--input", "real.npz", "--output", "scalar.npz", MAAS_RT_ISA="scalar")
    assert done.returncode == 0, done.stderr


def test_interrupting_a_compile_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maas_rt", "compile", str(folder / "net.pt2"), "-o", str(tmp_path / "net.mrt")]
    heeding = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a job in the background inherits that it is ignored
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    time.sleep(2.0)  # inside the imports or the compile, which take longer together
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: what comes before the weights still fits."""
    done = subprocess.run(
        [sys.executable, "-m", "maas_rt", "compile", str(folder / "net.pt2"), "-o", str(tmp_path / "net.mrt")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    assert "net.mrt" in _one_sentence(done, "compile")
    assert list(tmp_path.iterdir()) == []

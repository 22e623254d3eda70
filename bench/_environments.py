"""Environments of peers that cannot share the main one, made by pip on first use in build/bench/venvs.

MNN and onnx want different protobufs, and litert-torch brings packages that nothing else here should see.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / "build" / "bench" / "venvs"


@dataclass(frozen=True)
class Environment:
    """What pip installs; `layered`: the main environment's packages are seen behind its own; `alone`: without dependencies."""

    packages: tuple[str, ...]
    layered: bool = False
    alone: bool = False


ENVIRONMENTS: dict[str, Environment] = {
    # pnnx depends on torch (5 GB) for exporting from Python; its program, which is all that is used, does not.
    "ncnn": Environment(("ncnn", "pnnx", "numpy"), alone=True),
    "mnn": Environment(("MNN", "numpy")),
    "nncf": Environment(("nncf", "openvino", "onnx", "numpy")),
    "tokenizers": Environment(("tokenizers", "numpy")),
    "gguf": Environment(("gguf", "tokenizers", "numpy")),
    "litert": Environment(("ai-edge-litert", "numpy")),
    "mlserver": Environment(("mlserver", "onnxruntime")),
    "kserve": Environment(("kserve", "onnxruntime")),
    "litserve": Environment(("litserve", "onnxruntime")),
    "bentoml": Environment(("bentoml", "onnxruntime")),
    # The library alone is loaded, through ctypes: a build of llama.cpp for AVX2.
    "llama_cpp": Environment(("xllamacpp",), alone=True),
    "litert_convert": Environment(("litert-torch",), layered=True),
}


@cache
def python(name: str) -> str:
    """The interpreter of an environment, which is made if it is not there; "main" is this one."""
    if name == "main":
        return sys.executable
    folder, environment = VENVS / name, ENVIRONMENTS[name]
    program, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists() or done.read_text() != repr(environment):
        print(f"installing {', '.join(environment.packages)} into {folder.relative_to(ROOT)}", file=sys.stderr)
        _make(folder, environment)
        done.write_text(repr(environment))
    return str(program)


def _make(folder: Path, environment: Environment) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    program = str(folder / "bin" / "python")
    if environment.layered:
        paths = subprocess.run(
            [program, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        )
        main = sysconfig.get_path("purelib")
        pth = Path(paths.stdout.strip()) / "main-environment.pth"
        pth.write_text(f"import site; site.addsitedir({main!r})\n")
    command = [program, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    command += ["--no-deps"] if environment.alone else []
    subprocess.run([*command, *environment.packages], check=True, stdout=sys.stderr)


@cache
def version(package: str, environment: str) -> str | None:
    """The installed version of a package in an environment; None where it is not installed."""
    program = f"from importlib import metadata; print(metadata.version({package!r}))"
    done = subprocess.run([python(environment), "-c", program], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None

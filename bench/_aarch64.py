"""AArch64 under qemu-user: Debian's arm64 Python with numpy, peers' wheels and our library, cross-compiled. Under build/aarch64, once.

    subprocess.run(python_command("-m", "pytest", "tests/kernels"), env=python_environment(("numpy", "pytest")), cwd=tree())

Needs Debian's packages qemu-user and g++-aarch64-linux-gnu, and apt-get and dpkg for the packages that are unpacked (nothing of this
machine's is changed).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "aarch64"
CPUS = ("cortex-a53", "neoverse-n1", "max")  # plain, with dotprod, with all that qemu knows
DEFAULT_CPU = "neoverse-n1"

_PYTHON = "3.11"
_DEBS = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev libc6 libgcc-s1 libstdc++6 libgomp1 zlib1g "
    "libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1"
).split()
_TOOLS = {
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "cmake": "cmake",
}
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# The last torch whose aarch64 wheel does without CUDA's libraries; no other version is to be had for the CPU alone.
_WITHOUT_DEPENDENCIES = {
    "torch": "torch==2.8.0 filelock fsspec jinja2 markupsafe mpmath networkx sympy typing-extensions".split(),
}
# ONNX Runtime reads these; a core like DEFAULT_CPU.
_CPUINFO = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""


class MissingTool(RuntimeError):
    """A program that is needed is not installed; says which package has it."""


def missing() -> str | None:
    """What this machine lacks, as a sentence; None where all is there."""
    absent = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if absent:
        return f"AArch64 under emulation needs programs that are not installed: apt-get install {' '.join(absent)}"
    return None


def command(
    program: Path | str, *arguments: Path | str, cpu: str = DEFAULT_CPU, plugin: Path | None = None
) -> list[str]:
    """The line that runs an AArch64 program on an emulated CPU, under Debian's arm64 libraries."""
    loaded = ["-plugin", str(plugin)] if plugin else []
    return [_qemu(), "-cpu", cpu, "-L", str(root()), *loaded, str(program), *map(str, arguments)]


def python_command(*arguments: Path | str, cpu: str = DEFAULT_CPU, plugin: Path | None = None) -> list[str]:
    """The same of the arm64 Python. Give it `python_environment()`."""
    return command(root() / "usr" / "bin" / f"python{_PYTHON}", *arguments, cpu=cpu, plugin=plugin)


def python_environment(wheels: Sequence[str] = ("numpy",)) -> dict[str, str]:
    """Variables with which that Python sees maas_rt, bench and tests of `tree()`, and `wheels` from PyPI."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))},
        "PYTHONHOME": "/usr",
        "PYTHONPATH": os.pathsep.join(map(str, (tree(), *(site(wheel) for wheel in wheels)))),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
    }


@cache
def root() -> Path:
    """Debian's arm64 Python and what it needs, unpacked: qemu's root."""
    folder, wanted = BUILD / "root", " ".join(_DEBS) + _CPUINFO
    if not _is_made(folder, wanted):
        _check_tools()
        shutil.rmtree(folder, ignore_errors=True)
        for deb in _downloaded(BUILD / "debs"):
            _run(["dpkg", "-x", str(deb), str(folder)])
        (folder / "proc").mkdir()
        (folder / "proc" / "cpuinfo").write_text(_CPUINFO)
        cpus = folder / "sys" / "devices" / "system" / "cpu"
        cpus.mkdir(parents=True)
        for name in ("possible", "present", "online"):
            (cpus / name).write_text("0\n")
        # Debian's pyconfig.h includes that of the architecture from /usr/include, which cross compilers do not look into.
        include = folder / "usr" / "include" / f"python{_PYTHON}"
        (include / "aarch64-linux-gnu").symlink_to("../aarch64-linux-gnu")
        _mark(folder, wanted)
    return folder


def _downloaded(folder: Path) -> list[Path]:
    """The packages, by an apt of our own lists and status: neither root's rights nor a foreign architecture of this machine."""
    for name in ("lists/partial", "cache/archives/partial", "files"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    options = {
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    _run([*apt, "update"])
    _run([*apt, "download", *_DEBS], folder / "files")
    return sorted((folder / "files").glob("*.deb"))


@cache
def site(wheel: str) -> Path:
    """A folder with an aarch64 wheel from PyPI and what it needs, of the versions in constraints.txt where it names them."""
    folder, constraints = BUILD / "site" / wheel, ROOT / "constraints.txt"
    packages = _WITHOUT_DEPENDENCIES.get(wheel)
    wanted = f"{wheel} {packages} {constraints.read_text()}"
    if not _is_made(folder, wanted):
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--target", str(folder)]
        pip += [f"--platform={platform}" for platform in _PLATFORMS]
        pip += ["--only-binary=:all:", f"--python-version={_PYTHON}"]
        _run([*pip, *(["--no-deps", *packages] if packages else ["-c", str(constraints), wheel])])
        _mark(folder, wanted)
    return folder


@cache
def build() -> Path:
    """Where csrc is cross-compiled, with the Python module; what changed is built again."""
    _check_tools()
    folder, launcher = BUILD / "csrc", shutil.which("ccache")
    if not (folder / "CMakeCache.txt").exists():
        pybind11 = subprocess.run(
            [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
        )
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_TOOLCHAIN_FILE": ROOT / "csrc" / "cmake" / "aarch64.cmake",
            "MAAS_RT_BUILD_PYTHON": "ON",
            "Python3_EXECUTABLE": sys.executable,
            "Python3_INCLUDE_DIR": root() / "usr" / "include" / f"python{_PYTHON}",
            "PYTHON_MODULE_EXTENSION": f".cpython-{_PYTHON.replace('.', '')}-aarch64-linux-gnu.so",
            "pybind11_DIR": pybind11.stdout.strip(),
        }
        if launcher:
            settings |= {"CMAKE_C_COMPILER_LAUNCHER": launcher, "CMAKE_CXX_COMPILER_LAUNCHER": launcher}
        options = [f"-D{key}={value}" for key, value in settings.items()]
        generator = ["-GNinja"] if shutil.which("ninja") else []
        _run(["cmake", "-S", str(ROOT / "csrc"), "-B", str(folder), *generator, *options])
    _run(["cmake", "--build", str(folder), "-j", str(os.cpu_count())])
    return folder


def library() -> Path:
    """libmaas_rt.so for AArch64."""
    return build() / "libmaas_rt.so"


@cache
def tree() -> Path:
    """A folder like this source's, where maas_rt is its Python files beside the library and the module of AArch64; bench and tests are
    links. What runs there (as its working directory) sees them so, pytest too."""
    folder = BUILD / "tree"
    links = {name: ROOT / name for name in ("bench", "tests", "csrc", "pyproject.toml")}
    for path in [*(ROOT / "maas_rt").iterdir(), *build().glob("*.so")]:
        foreign = path.suffix == ".so" and path.parent == ROOT / "maas_rt"
        if not foreign and path.name != "__pycache__":
            links[f"maas_rt/{path.name}"] = path
    (folder / "maas_rt").mkdir(parents=True, exist_ok=True)
    # In place: another process may be running there.
    for path in [*folder.iterdir(), *(folder / "maas_rt").iterdir()]:
        if path.is_symlink() and str(path.relative_to(folder)) not in links:
            path.unlink(missing_ok=True)
    for name, target in links.items():
        if not (folder / name).is_symlink():
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(target)
    return folder


def _qemu() -> str:
    program = shutil.which("qemu-aarch64")
    if program is None:
        raise MissingTool("AArch64 programs run under qemu-aarch64, which is not installed: apt-get install qemu-user")
    return program


def _check_tools() -> None:
    sentence = missing()
    if sentence:
        raise MissingTool(sentence)


def _run(line: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise RuntimeError(f"{' '.join(line[:4])} ... ended with status {done.returncode}:\n{last}")


def _is_made(folder: Path, wanted: str) -> bool:
    mark = folder / ".made"
    return mark.exists() and mark.read_text() == wanted


def _mark(folder: Path, wanted: str) -> None:
    (folder / ".made").write_text(wanted)

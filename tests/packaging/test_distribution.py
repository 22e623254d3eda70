"""The wheel and the sdist, away from the source: what they hold, and that they work with numpy alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import _tiny

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def pip(python: Path, *arguments: str | Path) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="session")
def sdist(folder: Path) -> Path:
    """Made in a copy of what a commit would hold, so that nothing that was built slips in."""
    source = folder / "source"
    names = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt", "CHANGELOG.md"]
    source.mkdir()
    for name in names:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    for name in ("maas_rt", "compiler", "csrc"):
        ignore = shutil.ignore_patterns("*.so", "*.so.new", "include" if name == "maas_rt" else "", "__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder / "dist", cwd=source)
    (archive,) = (folder / "dist").glob("*.tar.gz")
    shutil.rmtree(source)
    return archive


@pytest.fixture(scope="session")
def wheel(folder: Path, sdist: Path) -> Path:
    """Built from the sdist alone; without optimization, which takes most of the time: the installed library has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAKE_ARGS", "-DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=")
        pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", sdist)
    (archive,) = (folder / "wheels").glob("*.whl")
    return archive


@pytest.fixture(scope="session")
def empty(folder: Path, wheel: Path) -> Path:
    """The interpreter of an environment that holds the wheel and numpy, and nothing else."""
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv/bin/python"
    pip(python, "install", "-q", f"numpy=={np.__version__}")
    pip(python, "install", "-q", "--no-deps", wheel)
    return python


def test_the_sdist_holds_the_source_and_nothing_that_was_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"setup.py", "LICENSE", "README.md", "constraints.txt", "csrc/CMakeLists.txt", "csrc/include/maas_rt.h"}
    needed |= {
        "csrc/artifact/plan.inc",
        "csrc/artifact/generate_records.py",
        "csrc/python/native.cc",
        "compiler/__init__.py",
        "maas_rt/_native.pyi",
    }
    assert needed <= names
    assert [name for name in names if name.endswith((".so", ".o", ".pyc", ".mrt"))] == []
    built = ("build/", "tests/", "maas_rt/include", "maas_rt/_plan_records.py")
    assert [name for name in names if name.startswith(built)] == []


def test_the_wheel_holds_every_module_once(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.partition("/")[0] for name in names}
    assert top == {"maas_rt", next(name for name in top if name.endswith(".dist-info"))}
    with tarfile.open(sdist) as archive:
        modules = [name.partition("/")[2] for name in archive.getnames() if name.endswith(".py")]
    expected = {name for name in modules if name.startswith("maas_rt/")}
    expected |= {"maas_rt/" + name for name in modules if name.startswith("compiler/")}
    assert len(expected) > 50
    expected.add("maas_rt/_plan_records.py")  # written by the build, from plan.inc
    assert {name for name in names if name.endswith(".py")} == expected
    assert {"maas_rt/py.typed", "maas_rt/_native.pyi", "maas_rt/include/maas_rt.h", "maas_rt/libmaas_rt.so"} <= names
    assert {f"maas_rt/service/console/{each.name}" for each in (ROOT / "maas_rt/service/console").iterdir()} <= names
    assert any(re.fullmatch(r"maas_rt/_native\..*\.so", name) for name in names)


def test_the_wheel_needs_numpy_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
        licenses = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required == ["Requires-Dist: numpy>=1.24"]
    extras = set(re.findall(r"^Provides-Extra: (.*)$", metadata, flags=re.MULTILINE))
    assert {"capi", "compiler", "grpc", "serve", "trust", "all", "dev"} <= extras
    assert "License-Expression: Apache-2.0" in metadata
    assert len(licenses) == 1


def test_the_library_is_small_stripped_and_needs_little() -> None:
    library = ROOT / "maas_rt" / "libmaas_rt.so"
    (module,) = (ROOT / "maas_rt").glob("_native.*.so")
    assert library.stat().st_size <= 1_135_000
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here")
    sections = run("readelf", "-SW", library)
    assert ".symtab" not in sections
    assert ".debug_info" not in sections
    system = r"(libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|ld-linux.*)\.so\.\d+"
    for object_file, own in ((library, set()), (module, {"libmaas_rt.so"})):
        dynamic = run("readelf", "-dW", object_file)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
        assert {n for n in needed if not re.fullmatch(system, n)} == own
    assert "$ORIGIN" in run("readelf", "-dW", module)
    assert str(ROOT).encode() not in library.read_bytes() + module.read_bytes()


def test_a_model_runs_from_the_wheel(empty: Path, folder: Path) -> None:
    (folder / "m.mrt").write_bytes(_tiny.mlp("batch"))
    program = (
        "import maas_rt, numpy as np, sys\n"
        "m = maas_rt.load('m.mrt')\n"
        "print(m(np.zeros((2, 16), 'f4')).shape, maas_rt.__file__)\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'tvm', 'onnx', 'cffi', 'aiohttp', 'cryptography'}))"
    )
    out = run(empty, "-c", program, cwd=folder).splitlines()
    assert out[0].startswith("(2, 8) " + str(folder))
    assert out[1] == "[]"


def test_every_runtime_module_imports_or_names_its_extra(empty: Path, folder: Path) -> None:
    program = (
        "import importlib, pkgutil, maas_rt\n"
        "for info in pkgutil.walk_packages(maas_rt.__path__, 'maas_rt.', onerror=lambda name: None):\n"
        "    if info.name.startswith('maas_rt.compiler.') or info.name.endswith(('__main__', '.libmaas_rt')):\n"
        "        continue\n"
        "    try:\n"
        "        importlib.import_module(info.name)\n"
        "        print('ok', info.name)\n"
        "    except maas_rt.MissingExtraError as error:\n"
        "        print(error.extra, info.name)\n"
    )
    found = dict(reversed(line.split()) for line in run(empty, "-c", program, cwd=folder).splitlines())
    own = {"maas_rt." + p.stem for p in (ROOT / "maas_rt").glob("*.py") if p.stem not in ("__init__", "__main__")}
    assert own <= set(found)
    extras = {name: extra for name, extra in found.items() if extra != "ok"}
    http = (
        "_aiohttp",
        "_answers",
        "_app",
        "_bodies",
        "_connection",
        "_console",
        "_direct",
        "_guard",
        "_handshakes",
        "_openapi",
        "_serve",
        "_server",
        "_supervisor",
        "_worker",
    )
    both = ("_grpc", "_grpc_calls", "_grpc_direct", "_grpc_health", "_grpc_server")
    served = {f"maas_rt.service.{name}": "serve" for name in (*http, *both, "_jwks", "_jwt", "_pyjwt")}
    served |= {
        f"maas_rt.service.{name}": "grpc" for name in ("_grpcio", "_grpc_engine", "_grpc_messages", "_grpc_requests")
    }
    others = {"maas_rt.capi": "capi", "maas_rt._capi_ffi": "capi", "maas_rt.client._async_client": "client"}
    others |= {"maas_rt.service._otel": "otel"}
    assert extras == {**others, "maas_rt.trust": "trust", **served}


def test_the_command_is_installed(empty: Path, folder: Path) -> None:
    command = empty.with_name("maas-rt")
    assert run(command, "--version", cwd=folder).split()[-1] == "0.1.0"
    result = subprocess.run([command, "compile", "x.onnx", "-o", "x.mrt"], capture_output=True, text=True, cwd=folder)
    assert result.returncode != 0
    assert "maas-rt[compiler]" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_top_level_compiler(empty: Path, folder: Path) -> None:
    program = "import importlib.util as u; print(u.find_spec('compiler'), u.find_spec('maas_rt.compiler') is not None)"
    assert run(empty, "-c", program, cwd=folder).split() == ["None", "True"]


def test_packages_are_computed_from_the_tree() -> None:
    """A folder of modules without __init__.py would work in an editable install and be absent from the wheel."""
    for top in ("maas_rt", "compiler"):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), os.fspath(module.relative_to(ROOT))

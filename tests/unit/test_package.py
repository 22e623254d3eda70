"""The package's face: pinned names, the error tree as it is drawn, one version everywhere, light imports."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import maas_rt

ROOT = Path(__file__).parents[2]


def test_exported_names() -> None:
    assert maas_rt.__all__ == [
        "CancelToken",
        "CancelledError",
        "CheckpointError",
        "CodeRefusedError",
        "CompileError",
        "DeadlineExceededError",
        "DecryptionError",
        "Error",
        "FormatError",
        "ImportModelError",
        "InvalidArgumentError",
        "MissingExtraError",
        "Model",
        "ModelNotFoundError",
        "Profile",
        "Session",
        "SignatureError",
        "State",
        "StepRecord",
        "TargetError",
        "TensorInfo",
        "UnsupportedOperatorError",
        "VerificationError",
        "__version__",
        "decode_strings",
        "encode_strings",
        "load",
    ]
    for name in maas_rt.__all__:
        assert getattr(maas_rt, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        maas_rt.no_such_name  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("page", ["maas_rt/_errors.py", "docs/python_api.md"])
def test_the_error_tree_is_what_is_drawn(page: str) -> None:
    text = (ROOT / page).read_text()
    drawn: dict[str, str] = {}
    parents: dict[int, str] = {}
    for line in re.findall(r"^ +(?:├|└|│)[^\n]*", text, flags=re.MULTILINE):
        depth = re.search(r"[├└]", line)
        assert depth is not None
        names = re.match(r"[^A-Za-z]*((?:\w+(?:\([^)]*\))?(?:, )?)+)", line)
        assert names is not None
        for name in re.findall(r"(\w*Error)(?=\(|,|\s|$)(?![^(]*\))", names[1]):
            drawn[name] = parents.get(depth.start() - 4, "Error")
            parents[depth.start()] = name
    real = {
        name: cls.__bases__[0].__name__
        for name, cls in vars(maas_rt._errors).items()
        if isinstance(cls, type) and issubclass(cls, maas_rt.Error) and cls is not maas_rt.Error
    }
    assert drawn == real


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(maas_rt.Error, RuntimeError)
    assert issubclass(maas_rt.InvalidArgumentError, ValueError)
    assert issubclass(maas_rt.DeadlineExceededError, TimeoutError)
    assert issubclass(maas_rt.MissingExtraError, ImportError)
    error = maas_rt.MissingExtraError("maas_rt.capi", "capi", "cffi")
    assert str(error) == "maas_rt.capi needs cffi, which is not installed: run `pip install 'maas-rt[capi]'`"


def test_statuses_of_the_c_api_have_an_exception() -> None:
    header = (ROOT / "csrc/include/maas_rt.h").read_text()
    known = set(maas_rt._errors._BY_STATUS)
    named = set(re.findall(r"\b(MRT_ERROR_\w+) =", header))
    assert known <= named
    plain = {"MRT_ERROR_BUSY", "MRT_ERROR_IO", "MRT_ERROR_OUT_OF_MEMORY", "MRT_ERROR_RUN", "MRT_ERROR_INTERNAL"}
    assert named - known == plain
    error = maas_rt._errors.from_status("MRT_ERROR_SHAPE", "a sentence.")
    assert (type(error), str(error), error.status) == (maas_rt.InvalidArgumentError, "a sentence.", "MRT_ERROR_SHAPE")


def test_one_version() -> None:
    header = (ROOT / "csrc/include/maas_rt.h").read_text()
    parts = [re.search(rf"MRT_VERSION_{part} (\d+)", header) for part in ("MAJOR", "MINOR", "PATCH")]
    assert ".".join(m[1] for m in parts if m) == maas_rt.__version__
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert project is not None
    assert project[1] == maas_rt.__version__


def test_importing_the_runtime_imports_numpy_alone() -> None:
    program = (
        "import sys, maas_rt, maas_rt._model, maas_rt._kernels, maas_rt._plan, maas_rt._container\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    foreign = {name for name in run.stdout.split() if not name.startswith(("_", "sitecustomize", "usercustomize"))}
    assert foreign == {"maas_rt", "numpy"}


def test_a_missing_cffi_is_one_sentence() -> None:
    program = (
        "import sys; sys.modules['cffi'] = None\n"
        "try:\n    import maas_rt.capi\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.startswith("MissingExtraError maas_rt.capi needs cffi")
    assert "maas-rt[capi]" in run.stdout


def test_the_service_without_aiohttp_is_what_speaks_no_http() -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from maas_rt.service import Repository, _requests\n"
        "print(Repository.__name__)\n"
        "try:\n    from maas_rt.service import serve\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    first, second = run.stdout.splitlines()
    assert first == "Repository"
    assert second.startswith("MissingExtraError the service needs aiohttp") and "maas-rt[serve]" in second


def test_the_header_in_the_package_is_the_librarys() -> None:
    assert importlib.util.find_spec("maas_rt._native") is not None
    package = Path(maas_rt.__file__).parent
    assert (package / "include/maas_rt.h").read_text() == (ROOT / "csrc/include/maas_rt.h").read_text()


def test_the_names_of_onnxruntime_are_those_that_its_module_defines() -> None:
    from maas_rt import _onnxruntime

    defined = {
        name
        for name, value in vars(_onnxruntime).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == _onnxruntime.__name__
    }
    assert defined | {"OrtValue"} == maas_rt._ONNXRUNTIME
    assert all(hasattr(maas_rt, name) for name in maas_rt._ONNXRUNTIME)

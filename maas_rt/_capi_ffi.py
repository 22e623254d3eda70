"""The C API through cffi in ABI mode: declarations from maas_rt.h, the library from beside this file.

`ffi` and `lib` are cffi's; `check(status)` raises the exception of a status.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from maas_rt._errors import Error, MissingExtraError, from_status

try:
    import cffi
except ImportError as error:
    raise MissingExtraError("maas_rt.capi", "capi", "cffi") from error

_HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """What cffi's parser takes of a C header: no comments, no preprocessor, no linkage and export words."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    constants = re.findall(r"^#define (MRT_\w+) (\d+)\s*$", text, flags=re.MULTILINE)
    # Only the branch for C: `extern "C" {` and its brace stand between #ifdef __cplusplus and #endif.
    text = re.sub(r"^#ifdef __cplusplus.*?^#endif", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\bMRT_API\b", "", text)
    return "".join(f"#define {name} {value}\n" for name, value in constants) + text


def _library() -> Any:
    path = _HERE / "libmaas_rt.so"
    try:
        return ffi.dlopen(str(path))
    except OSError as error:
        raise Error(
            f"the native library {path.name} cannot be loaded from maas_rt's folder ({error}): reinstall maas-rt"
        ) from error


ffi: Any = cffi.FFI()
ffi.cdef(declarations((_HERE / "include" / "maas_rt.h").read_text(encoding="utf-8")))
lib: Any = _library()


def text(pointer: Any) -> str:
    """A C string as text."""
    return str(ffi.string(pointer).decode("utf-8", "backslashreplace"))  # a path may be no UTF-8


def check(status: int) -> None:
    """Raises the exception that belongs to a status other than MRT_OK."""
    if status:
        message = text(lib.mrt_last_error())
        raise from_status(text(lib.mrt_status_name(status)), message)

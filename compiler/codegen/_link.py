"""Links object files into a code section: a shared object that needs libc and libm only.

TVM's object calls `TVMFFIErrorSetRaisedFromCStrParts`, whose provider differs from process to process (absent, or TVM's own
where tvm was imported first). A hidden definition is linked in that calls through a variable which the loader fills; another is
what long loops ask whether the run has to end (_stops.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from maas_rt._errors import CompileError

from ._elf import dynamic_symbols

__all__ = ["LOADER_VARIABLES", "find_linker", "link_shared"]

# What the loader fills where it finds it (csrc/artifact/FORMAT.md).
LOADER_VARIABLES = (
    "__TVMBackendParallelLaunch",
    "__TVMBackendAllocWorkspace",
    "__TVMBackendFreeWorkspace",
    "__mrt_error_set_raised",
    "__mrt_stopped",
)

_STUB = """\
typedef void (*set_raised_fn)(const char* kind, const char** parts, int count);
set_raised_fn __mrt_error_set_raised;
__attribute__((visibility("hidden"))) void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int count) {
  if (__mrt_error_set_raised) __mrt_error_set_raised(kind, parts, count);
}
typedef int (*stopped_fn)(void);
stopped_fn __mrt_stopped;
__attribute__((visibility("hidden"))) int mrt_stopped(void) { return __mrt_stopped ? __mrt_stopped() : 0; }
"""

# A segment of its own for each protection is a hole of up to a page each, in a file that may be smaller than one. What could be made
# read-only after loading lies beside the loader's variables, pointers to functions that are filled after it.
_WITHOUT_HOLES = ("-z,noseparate-code", "-z,norelro")

# The libc and libm functions that generated code may call.
_LIBC = frozenset({"memcpy", "memmove", "memset", "bcmp", "memcmp"})
_LIBM = frozenset(
    name + suffix
    for suffix in ("", "f")
    for name in (
        "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 expm1 fabs floor fma fmax fmin "
        "fmod frexp hypot ldexp log log10 log1p log2 lrint lround nearbyint nextafter pow remainder rint round roundeven sin sincos "
        "sinh sqrt tan tanh tgamma lgamma trunc j0 j1 y0 y1"
    ).split()
)
_ADMITTED = _LIBC | _LIBM


def find_linker() -> str:
    """The system's C compiler, which links code sections: $CC, cc, gcc or clang. Raises CompileError if there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    raise CompileError(
        "no C compiler was found, and a compile links its code section with one: install it (Debian and Ubuntu: "
        "apt install gcc libc6-dev) or name it in CC"
    )


def link_shared(objects: Sequence[Path], symbols: list[str]) -> bytes:
    """The code section made of object files that define `__tvm_ffi_<symbol>` for each of `symbols`.

    Identical input gives identical bytes. Raises CompileError if there is no linker, if it fails, if a symbol is missing, or if
    the result would need anything but libc and libm.
    """
    linker = find_linker()
    with tempfile.TemporaryDirectory(prefix="maas-rt-link-") as folder:
        out = Path(folder) / "code.so"
        stub = Path(folder) / "stub.c"
        stub.write_text(_STUB)
        script = Path(folder) / "exports.map"
        exported = "".join(f" {name};" for name in (*LOADER_VARIABLES, *(f"__tvm_ffi_{name}" for name in symbols)))
        script.write_text(f"{{ global:{exported} local: *; }};\n")
        flags = ["-shared", "-fPIC", "-O2", "-nostdlib", "-ffreestanding", "-fno-ident", "-fno-stack-protector", "-g0"]
        link = [
            "--build-id=none",
            "--strip-all",
            "--hash-style=gnu",
            "--gc-sections",
            "-Bsymbolic",
            "-soname,code.so",
            "-z,noexecstack",
            "-z,now",
            *_WITHOUT_HOLES,
            f"--version-script={script.name}",
        ]
        command = [
            linker,
            *flags,
            *(f"-Wl,{flag}" for flag in link),
            "-o",
            out.name,
            stub.name,
            *(str(each.resolve()) for each in objects),
            "-lm",
            "-lc",
        ]
        run = _run(command, folder)
        if run.returncode != 0 or not out.exists():
            reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise CompileError(
                f"{Path(linker).name} could not link the generated code ({reason}): is the C library's development package installed (Debian and Ubuntu: apt install gcc libc6-dev)?"
            )
        image = out.read_bytes()
    _check(image, symbols)
    return image


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    """The linker in a session of its own, which an interrupt ends with all its children: they write into `folder`."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _check(image: bytes, symbols: list[str]) -> None:
    found = dynamic_symbols(image)
    foreign = sorted(name for name in found.undefined if name not in _ADMITTED)
    if foreign:
        raise CompileError(
            f"the generated code calls {', '.join(foreign)}, which neither libc nor libm has: this is a fault of the compiler, please report it"
        )
    missing = sorted(name for name in symbols if f"__tvm_ffi_{name}" not in found.defined)
    if missing:
        raise CompileError(
            f"the generated code lacks {', '.join(missing)}: this is a fault of the compiler, please report it"
        )

"""Links object files into a code section: a shared object that needs libc and libm only.

TVM's object calls `TVMFFIErrorSetRaisedFromCStrParts`, whose provider differs from process to process (absent, or TVM's own
where tvm was imported first). A hidden definition is linked in that calls through a variable which the loader fills; another is
what long loops ask whether the run has to end (_stops.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tvm

from maas_rt._errors import CompileError

from ._elf import dynamic_symbols, machine_of
from ._linkers import Linker, find_linker
from ._targets import TargetSpec

__all__ = ["LOADER_VARIABLES", "STUB", "assembled", "link_shared", "linked", "run_tool"]

# What the loader fills where it finds it (csrc/artifact/FORMAT.md).
LOADER_VARIABLES = (
    "__TVMBackendParallelLaunch",
    "__TVMBackendAllocWorkspace",
    "__TVMBackendFreeWorkspace",
    "__mrt_error_set_raised",
    "__mrt_stopped",
)

# As LLVM's IR, so that a target needs a linker and no compiler.
STUB = """\
@__mrt_error_set_raised = global ptr null
define hidden void @TVMFFIErrorSetRaisedFromCStrParts(ptr %kind, ptr %parts, i32 %count) nounwind {
  %raise = load ptr, ptr @__mrt_error_set_raised
  %absent = icmp eq ptr %raise, null
  br i1 %absent, label %done, label %call
call:
  call void %raise(ptr %kind, ptr %parts, i32 %count) nounwind
  br label %done
done:
  ret void
}
@__mrt_stopped = global ptr null
define hidden i32 @mrt_stopped() nounwind {
  %ask = load ptr, ptr @__mrt_stopped
  %absent = icmp eq ptr %ask, null
  br i1 %absent, label %done, label %call
call:
  %answer = call i32 %ask() nounwind
  br label %done
done:
  %result = phi i32 [ 0, %0 ], [ %answer, %call ]
  ret i32 %result
}
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


def link_shared(objects: Sequence[Path], symbols: list[str], target: TargetSpec) -> bytes:
    """The code section made of object files that define `__tvm_ffi_<symbol>` for each of `symbols`.

    Identical input gives identical bytes. Raises CompileError if there is no linker, if it fails, if a symbol is missing, or if
    the result is for another machine or would need anything but libc and libm.
    """
    linker = find_linker(target.machine)
    with tempfile.TemporaryDirectory(prefix="maas-rt-link-") as folder:
        stub = assembled(STUB, target, Path(folder) / "stub.o")
        script = Path(folder) / "exports.map"
        exported = "".join(f" {name};" for name in (*LOADER_VARIABLES, *(f"__tvm_ffi_{name}" for name in symbols)))
        script.write_text(f"{{ global:{exported} local: *; }};\n")
        flags = [
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
        libraries = _stand_ins(linker, target, Path(folder)) if linker.is_plain else ["-lm", "-lc"]
        files = [stub.name, *(str(each.resolve()) for each in objects)]
        image = linked(linker, flags, "code.so", files, libraries, Path(folder))
    _check(image, symbols, target, linker)
    return image


def assembled(text: str, target: TargetSpec, out: Path) -> Path:
    """An object file of LLVM's IR."""
    source = out.with_suffix(".ll")
    named = f"{{\\22kind\\22:\\22llvm\\22,\\22mtriple\\22:\\22{target.triple}\\22}}"
    flags = f'!llvm.module.flags = !{{!0}}\n!0 = !{{i32 4, !"tvm_target", !"{named}"}}\n'
    source.write_text(f'target triple = "{target.triple}"\n{text}{flags}')
    tvm.runtime.load_module(str(source)).write_to_file(str(out), "o")
    return out


def _stand_ins(linker: Linker, target: TargetSpec, folder: Path) -> list[str]:
    """Empty libraries of libc's and libm's names for a linker that has none: what the code section needs is found when it is loaded."""
    nothing = assembled("", target, folder / "nothing.o")
    names = ["libm.so.6", "libc.so.6"]
    for name in names:
        linked(linker, [f"-soname,{name}"], name, [nothing.name], [], folder)
    return names


def linked(
    linker: Linker,
    flags: Sequence[str],
    out: str,
    files: Sequence[str],
    libraries: Sequence[str],
    folder: Path,
    relocatable: bool = False,
) -> bytes:
    """What `linker` makes of `files` as `folder`/`out`: a shared object, or one to link further if `relocatable`."""
    run = _run(linker.line(flags, out, files, libraries, relocatable), str(folder))
    result = folder / out
    if run.returncode != 0 or not result.exists():
        raise CompileError(
            f"{linker.name} could not link the generated code ({_reason(run.stderr, folder)}): is the C library's development package "
            "installed (Debian and Ubuntu: apt install gcc libc6-dev; for another CPU: apt install gcc-aarch64-linux-gnu)?"
        )
    return result.read_bytes()


def run_tool(command: list[str], out: str, folder: Path) -> None:
    """Run a tool of the binutils that writes `folder`/`out`; CompileError with its reason if it does not."""
    run = _run(command, str(folder))
    if run.returncode != 0 or not (folder / out).exists():
        raise CompileError(f"{command[0]} failed on the generated code ({_reason(run.stderr, folder)})")


def _reason(text: str, folder: Path) -> str:
    """What a linker complained of last, behind which a compiler says that the linker failed; without the folder that is gone."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith("collect2:")] or lines or ["no message"]
    reason = own[-1].replace(f"{folder}{os.sep}", "")
    return reason if len(reason) <= 200 else reason[:200].rstrip() + " ..."


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


def _check(image: bytes, symbols: list[str], target: TargetSpec, linker: Linker) -> None:
    try:
        machine = machine_of(image)
    except ValueError as error:
        raise CompileError(
            f"what {linker.name} linked for {target.name} is {error}: it does not link for {target.machine}; name a compiler that does in "
            f"CC_{target.machine}"
        ) from None
    if machine != target.machine:
        raise CompileError(
            f"what {linker.name} linked for {target.name} is for {machine}: name a C compiler for {target.machine} in CC_{target.machine}"
        )
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

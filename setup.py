"""Builds the distribution: computes its packages, and drives CMake for csrc/.

`libmaas_rt.so` and the extension `_native` are put beside each other in maas_rt/, where the extension finds the library
through its $ORIGIN rpath; in the source tree for an editable install, in the build tree for a wheel. CMAKE_ARGS in the
environment are further arguments of CMake's configuration, as scikit-build has them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
RECORDS = ROOT / "csrc" / "artifact"
SHIPPED = {"include": ROOT / "csrc" / "include" / "maas_rt.h", "examples": ROOT / "csrc" / "examples" / "classify.c"}


class CMakeBuild(build_ext):
    """One extension, one CMake project: builds csrc/ and collects the two objects, the plan's records, the C header and the example."""

    def run(self) -> None:
        # The base class builds in build/ and copies the extension alone back into the source tree.
        for ext in self.extensions:
            self.build_extension(ext)

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / "editable" if self.inplace else Path(self.build_temp).resolve() / "csrc"
        build.mkdir(parents=True, exist_ok=True)
        self._cmake(build)
        target.parent.mkdir(parents=True, exist_ok=True)
        _install(build / "libmaas_rt.so", target.parent / "libmaas_rt.so")
        _install(build / target.name, target)
        subprocess.run(
            [
                sys.executable,
                str(RECORDS / "generate_records.py"),
                str(RECORDS / "plan.inc"),
                str(target.parent / "_plan_records.py"),
            ],
            check=True,
        )
        for folder, source in SHIPPED.items():
            self._ship(source, target.parent / folder / source.name)

    def _ship(self, source: Path, copy: Path) -> None:
        copy.parent.mkdir(exist_ok=True)
        copy.unlink(missing_ok=True)
        if self.inplace:  # stays live
            copy.symlink_to(os.path.relpath(source, copy.parent))
        else:
            shutil.copyfile(source, copy)

    def _cmake(self, build: Path) -> None:
        import pybind11

        cmake = shutil.which("cmake")
        if cmake is None:
            raise SystemExit("maas-rt needs CMake to build its library, and found none: `pip install cmake`.")
        configure = [
            cmake,
            "-S",
            str(ROOT / "csrc"),
            "-B",
            str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DMAAS_RT_BUILD_PYTHON=ON",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        ninja = shutil.which("ninja")
        if ninja is not None:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0))))
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), "--parallel", jobs, "--target", "maas_rt", "_native"], check=True)


def _install(source: Path, destination: Path) -> None:
    """Written beside and renamed: a process that has the old library mapped keeps it whole."""
    beside = destination.with_name(destination.name + ".new")
    shutil.copyfile(source, beside)
    beside.chmod(0o755)
    beside.replace(destination)


packages = find_packages(include=["maas_rt", "maas_rt.*"])
packages += ["maas_rt.compiler", *(f"maas_rt.compiler.{name}" for name in find_packages("compiler"))]

setup(
    packages=packages,
    package_dir={"maas_rt.compiler": "compiler"},
    package_data={
        "maas_rt": ["py.typed", "*.pyi", "include/*.h", "examples/*.c", "libmaas_rt.so"],
        "maas_rt.compiler.report": ["*.html"],
        "maas_rt.service": ["console/*"],
    },
    ext_modules=[Extension("maas_rt._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
